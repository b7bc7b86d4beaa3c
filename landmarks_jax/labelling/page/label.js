// The page that places landmarks. What a person does is shown at once and queued; the server answers
// when it is on disk, and only then does the page say "Saved". Points are in pixels of the original
// picture, (0, 0) the centre of its first pixel.

const INVISIBLE = 'invisible';
const UNTOUCHED = 0, PARTLY = 1, COMPLETE = 2, BROKEN = 3; // of a picture, as in session.py
const STATES = ['untouched', 'partly', 'complete', 'broken'];
const SIDES = [1024, 2048, 4096]; // larger sides in which pictures are served
const POLL = 800, RETRY = 1500, PAUSE = 250; // ms: between questions, after a failure, after a nudge
const NEAR = 11, MOVED = 4; // css pixels: to grab a point, to make a drag of a click
const MOST_ZOOM = 40; // css pixels a pixel of the picture
const KEYS = '1234567890abcdeghjklmoqrstuvwxy'; // of landmarks; f i n p z have other meanings
const COLOURS = ['#4cc9f0', '#ffd166', '#ff6fae', '#7ee787', '#ff9f43', '#b79bff', '#5e9bff', '#ff7b72'];

const at = id => document.getElementById(id);
const client = sessionStorage.client ||= crypto.randomUUID();

let facts; // of the session: landmarks, names of pictures, ...
let shown = null; // the picture: {picture, width, height, revision, points, predicted, confidence}
let current = 0; // the chosen landmark
let known = { revision: 0, fits: 0, broken: -1 }; // what of the server was seen
let states = [], revisions = new Map(), reasons = {}, sure = null, least = null;
let status = {};
const visited = [], skipped = [];

// ---------------------------------------------------------------- small things

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const colour = k =>
  facts.landmarks.length <= COLOURS.length ? COLOURS[k] : `hsl(${(k * 137.508) % 360} 85% 66%)`;
const pointOf = k => shown.points[facts.landmarks[k]];
const predictedAt = k => shown.predicted?.[k] ?? null;
const isPlace = point => Array.isArray(point);
const places = k => (isPlace(pointOf(k)) ? pointOf(k) : pointOf(k) ? null : predictedAt(k));
const isSet = k => pointOf(k) !== undefined;
const plural = (count, one) => `${count.toLocaleString('en')} ${one}${count === 1 ? '' : 's'}`;

let toasting;
function toast(text) {
  at('toast').textContent = text;
  at('toast').hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => (at('toast').hidden = true), 4500);
}

// ---------------------------------------------------------------- the server

class Refused extends Error {
  constructor(status, told) {
    super(told.error ?? `error ${status}`);
    this.status = status;
    this.told = told;
  }
}

async function ask(path, data) {
  const options = data && {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(data),
  };
  const answer = await fetch(path, options);
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told);
  return told;
}

// Changes go to the server one after the other, each until it is on disk.
const queue = [];
let sending = false, failure = null, lastSaved = false, draft = null, drafting;

function enqueue(change) {
  queue.push({ ...change, id: crypto.randomUUID() });
  showSaved();
  if (!sending) send();
}

async function send() {
  sending = true;
  while (queue.length) {
    const change = queue[0];
    const base = change.undo ? {} : { base: revisions.get(change.picture) }; // behind all before it
    try {
      const told = await ask(change.undo ? 'api/undo' : 'api/change', { client, ...change, ...base });
      queue.shift();
      failure = null;
      lastSaved = true;
      if (change.undo) await undone(told);
      else saved(change, told);
    } catch (error) {
      if (error instanceof Refused && ![500, 502, 503, 507].includes(error.status)) {
        refused(error);
        continue;
      }
      failure = error instanceof Refused
        ? `Not saved: ${error.message}`
        : `The server does not answer. ${plural(queue.length, 'change')} of yours will be saved when it runs again; leave this page open.`;
      showSaved();
      await new Promise(resolve => { wake = resolve; setTimeout(resolve, RETRY); });
    }
    showSaved();
  }
  sending = false;
  showSaved();
}
let wake = () => {};

function saved(change, told) {
  revisions.set(told.picture, told.revision);
  const newer = draft || press || queue.some(other => other.picture === told.picture);
  if (shown?.picture === told.picture) {
    if (!newer) shown.points = told.points;
    draw();
  }
  const count = Object.keys(told.points).length;
  setState(told.picture, count === facts.landmarks.length ? COMPLETE : count ? PARTLY : UNTOUCHED);
}

// Something else is on disk: the person must look again. What was queued for it stands on nothing.
function refused(error) {
  const { picture, undo } = queue.shift();
  for (let i = queue.length; i--; ) if (queue[i].picture === picture) queue.splice(i, 1);
  toast(error.told.conflict && undo
    ? 'Not undone: that picture was changed elsewhere since.'
    : error.told.conflict ? 'This picture was changed elsewhere. Your last change was not saved; look at it again.'
    : `Not saved: ${error.message}`);
  failure = null;
  lastSaved = false;
  if (shown && (picture === undefined || shown.picture === picture)) open(shown.picture);
}

async function undone({ picture, revision }) {
  if (picture === null || picture === undefined) return toast('There is nothing to undo.');
  revisions.set(picture, revision);
  await open(picture);
  toast('Undone.');
}

function showSaved() {
  const unsaved = queue.length + (draft ? 1 : 0), label = at('saved');
  label.className = failure ? 'failed' : unsaved ? 'saving' : '';
  label.textContent = failure ? 'Not saved' : unsaved ? 'Saving…' : lastSaved ? 'Saved' : '';
  label.hidden = !label.textContent;
  at('alarm').hidden = !failure;
  at('alarm').firstElementChild.textContent = failure ?? '';
}

// ---------------------------------------------------------------- changing points

function change(points) {
  flush();
  show(points);
  enqueue({ picture: shown.picture, points });
}

// Nudges and drags in quick succession are one change.
function changeSoon(points) {
  show(points);
  draft = { picture: shown.picture, points: { ...draft?.points, ...points } };
  clearTimeout(drafting);
  drafting = setTimeout(flush, PAUSE);
  showSaved();
}

function flush() {
  clearTimeout(drafting);
  if (!draft) return;
  const { picture, points } = draft;
  draft = null;
  enqueue({ picture, points });
}

function show(points) {
  shown.points = { ...shown.points };
  for (const [name, point] of Object.entries(points)) {
    if (point === null) delete shown.points[name];
    else shown.points[name] = point;
  }
  draw();
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const inside = ([x, y]) => [
  Math.round(1000 * clamp(x, -0.5, shown.width - 0.5)) / 1000,
  Math.round(1000 * clamp(y, -0.5, shown.height - 0.5)) / 1000,
];

function place(point) {
  change({ [facts.landmarks[current]]: inside(point) });
  const count = facts.landmarks.length;
  for (let step = 1; step < count; step++) {
    const k = (current + step) % count;
    if (!isSet(k)) return choose(k);
  }
  draw();
}

function choose(k) {
  flush();
  current = k;
  draw();
  at('landmarks').children[k]?.scrollIntoView({ block: 'nearest' });
}

function nudge(dx, dy) {
  const start = places(current) ?? [shown.width / 2 - 0.5, shown.height / 2 - 0.5];
  const moved = inside([start[0] + dx / view.scale, start[1] + dy / view.scale]);
  changeSoon({ [facts.landmarks[current]]: moved });
}

function toggleInvisible() {
  const name = facts.landmarks[current];
  if (shown.points[name] === INVISIBLE) return change({ [name]: null });
  const chosen = current;
  change({ [name]: INVISIBLE });
  for (let k = chosen + 1; k < facts.landmarks.length; k++) if (!isSet(k)) return choose(k);
}

async function confirmPicture() {
  if (!shown) return next();
  const names = facts.landmarks;
  const missing = names.filter((_, k) => !isSet(k));
  const without = missing.filter(name => !predictedAt(names.indexOf(name)));
  if (without.length) {
    choose(names.indexOf(without[0]));
    return toast(`Still missing: ${without.slice(0, 4).join(', ')}${without.length > 4 ? ', …' : ''}. Press i for one that cannot be seen.`);
  }
  flush();
  if (missing.length) {
    change(Object.fromEntries(missing.map(name => [name, inside(predictedAt(names.indexOf(name)))])));
  }
  await next();
}

function undo() {
  flush();
  enqueue({ undo: true });
}

// ---------------------------------------------------------------- which picture

let opening = 0; // the newest wins

async function open(picture, { back = false } = {}) {
  flush();
  const turn = ++opening;
  let told;
  try {
    told = await ask(`api/pictures/${picture}`);
  } catch (error) {
    if (turn !== opening) return;
    shown = null;
    at('name').textContent = facts.names[picture] ?? '';
    blank(`This picture cannot be shown: ${error.message}`);
    return;
  }
  revisions.set(picture, Math.max(told.revision, revisions.get(picture) ?? 0));
  if (turn !== opening) return;
  const same = shown?.picture === picture;
  if (shown && !same && !back) visited.push(shown.picture);
  shown = told;
  for (const waiting of queue) if (waiting.picture === picture) show(waiting.points);
  if (!same) {
    const first = facts.landmarks.findIndex((_, k) => !isSet(k));
    current = Math.max(0, first);
    level = null;
    fitView();
    load();
  }
  at('empty').hidden = true;
  at('name').textContent = at('name').title = facts.names[picture];
  draw();
  drawTiles();
}

async function next() {
  if (shown && skipped[skipped.length - 1] !== shown.picture) skipped.push(shown.picture);
  if (skipped.length > 200) skipped.shift();
  try {
    const { picture } = await ask('api/next', { client, skipped });
    if (picture === null) {
      toast('Every picture is labelled.');
    } else {
      await open(picture);
    }
  } catch (error) {
    toast(`No next picture: ${error instanceof Refused ? error.message : 'the server does not answer'}`);
  }
}

function previous() {
  if (visited.length) open(visited.pop(), { back: true });
  else toast('This is the first picture of this tab.');
}

function blank(text) {
  at('empty').textContent = text;
  at('empty').hidden = false;
  level = null;
  draw();
}

// ---------------------------------------------------------------- the view of a picture

const canvas = at('canvas'), pen = canvas.getContext('2d');
const view = { scale: 1, x: 0, y: 0 }; // css pixels: x = view.x + scale * (pixel + .5)
let level = null; // {image, side} that is loaded

const toScreen = ([x, y]) => [view.x + view.scale * (x + 0.5), view.y + view.scale * (y + 0.5)];
const toPicture = ([x, y]) => [(x - view.x) / view.scale - 0.5, (y - view.y) / view.scale - 0.5];
const wholeScale = () =>
  Math.min((canvas.clientWidth - 24) / shown.width, (canvas.clientHeight - 24) / shown.height);

function fitView() {
  if (!shown) return;
  view.scale = Math.min(wholeScale(), MOST_ZOOM);
  view.x = (canvas.clientWidth - view.scale * shown.width) / 2;
  view.y = (canvas.clientHeight - view.scale * shown.height) / 2;
  draw();
}

function zoom(factor, [x, y] = [canvas.clientWidth / 2, canvas.clientHeight / 2]) {
  if (!shown) return;
  const scale = clamp(view.scale * factor, Math.min(wholeScale(), 1) / 2, MOST_ZOOM);
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  load();
  draw();
}

// The smallest copy that is sharp on this screen; what is shown stays until it is there.
async function load() {
  const { picture, width, height } = shown, larger = Math.max(width, height);
  const wanted = Math.min(larger, larger * view.scale * devicePixelRatio);
  const side = SIDES.find(s => s >= wanted) ?? SIDES[SIDES.length - 1];
  if (level?.picture === picture && level.side >= side) return;
  const image = new Image();
  image.src = `pictures/${facts.key}/${side}/${picture}`;
  try {
    await image.decode();
  } catch {
    if (shown?.picture === picture && !level) blank('This picture cannot be read any more. Was its folder moved?');
    return;
  }
  if (shown?.picture !== picture || (level?.picture === picture && level.side > side)) return;
  level = { picture, side, image };
  draw();
}

let drawing = 0;
function draw() {
  drawing ||= requestAnimationFrame(() => { drawing = 0; render(); });
}

function render() {
  if (!facts) return;
  const ratio = devicePixelRatio, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== width * ratio || canvas.height !== height * ratio) {
    canvas.width = width * ratio;
    canvas.height = height * ratio;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  at('zoom').hidden = !shown;
  if (shown) {
    if (level?.picture === shown.picture) {
      pen.imageSmoothingEnabled = view.scale < 8; // beyond, pixels are what one wants to see
      pen.imageSmoothingQuality = 'high';
      pen.drawImage(level.image, view.x, view.y, view.scale * shown.width, view.scale * shown.height);
    }
    facts.landmarks.forEach((_, k) => k === current || mark(k));
    mark(current);
    at('whole').textContent = `${Math.round(100 * view.scale)} %`;
  }
  renderList();
}

function mark(k) {
  const place = places(k);
  if (!place) return;
  const [x, y] = toScreen(place), chosen = k === current, many = facts.landmarks.length > 20;
  const guess = !isSet(k), radius = (many ? 4.5 : 8) + (chosen ? 1.5 : 0);
  const ring = () => { pen.beginPath(); pen.arc(x, y, radius, 0, 2 * Math.PI); };
  pen.save();
  pen.globalAlpha = guess ? 0.5 + 0.5 * (shown.confidence?.[k] ?? 0.8) : 1;
  pen.setLineDash([]);
  ring();
  pen.lineWidth = many ? 4 : 5;
  pen.strokeStyle = '#0009';
  pen.stroke();
  pen.setLineDash(guess ? [4, 2.8] : []);
  ring();
  pen.lineWidth = (chosen ? 2.6 : 2.2) - (many ? 0.6 : 0);
  pen.strokeStyle = colour(k);
  pen.stroke();
  pen.setLineDash([]);
  if (!guess) {
    pen.beginPath();
    pen.arc(x, y, many ? 1.3 : 2, 0, 2 * Math.PI);
    pen.fillStyle = colour(k);
    pen.fill();
  }
  if (chosen) {
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + dx * (radius + 2), y + dy * (radius + 2));
      pen.lineTo(x + dx * (radius + 8), y + dy * (radius + 8));
    }
    pen.lineWidth = 1.5;
    pen.stroke();
  }
  if (chosen || k === hovered || !many) {
    const text = chosen || k === hovered ? facts.landmarks[k] : KEYS[k] ?? '';
    pen.font = `600 ${chosen ? 13 : 11.5}px system-ui, sans-serif`;
    pen.textBaseline = 'middle';
    pen.lineWidth = 3.5;
    pen.lineJoin = 'round';
    pen.strokeStyle = '#000b';
    const left = x + radius + (chosen ? 11 : 5);
    pen.strokeText(text, left, y);
    pen.fillStyle = chosen ? '#fff' : colour(k);
    pen.fillText(text, left, y);
  }
  pen.restore();
}

// ---------------------------------------------------------------- the landmarks beside it

function makeList() {
  at('landmarks').className = facts.landmarks.length > 12 ? 'many' : '';
  at('landmarks').replaceChildren(...facts.landmarks.map((name, k) => {
    const button = make('button', { type: 'button', title: name, onclick: () => { choose(k); canvas.focus({ preventScroll: true }); } },
      make('i'), make('span', { textContent: name }), make('kbd', { textContent: KEYS[k] ?? '', hidden: !KEYS[k] }),
      make('meter', { min: 0, max: 1, hidden: true }));
    button.style.setProperty('--colour', colour(k));
    return button;
  }));
}

function renderList() {
  const said = [];
  facts.landmarks.forEach((name, k) => {
    const button = at('landmarks').children[k], meter = button.lastElementChild;
    const own = shown && pointOf(k), guess = shown && !own && predictedAt(k);
    const state = own === INVISIBLE ? 'invisible' : own ? 'placed' : guess ? 'predicted' : 'missing';
    const confidence = guess ? shown.confidence?.[k] ?? null : null;
    const words = confidence === null ? state : `${state}, ${Math.round(100 * confidence)} % sure`;
    button.className = state;
    button.setAttribute('aria-pressed', k === current);
    button.setAttribute('aria-label', `${name}: ${words}`);
    meter.hidden = confidence === null;
    meter.value = confidence ?? 0;
    meter.title = words;
    if (k === current) said.push(`${name} is chosen, ${words}`);
  });
  canvas.setAttribute('aria-label', shown ? `${facts.names[shown.picture]}; ${said.join()}` : 'No picture');
  showHint();
}

function showHint() {
  const key = text => make('kbd', { textContent: text });
  const parts = [];
  if (shown) {
    const left = facts.landmarks.filter((_, k) => !isSet(k)).length;
    if (left && !shown.predicted) {
      parts.push('Click where ', make('strong', { textContent: facts.landmarks[current] }), ' is; ', key('i'), ' if it cannot be seen');
    } else if (left) {
      parts.push('Drag what is wrong, then ', key('Space'), ' confirms and goes on');
    } else {
      parts.push(key('Space'), ' next picture');
    }
    parts.push('  ·  ', key('z'), ' undo  ·  ', key('n'), ' skip  ·  ', key('?'), ' all keys');
  }
  at('hint').replaceChildren(...parts);
}

// ---------------------------------------------------------------- pointer and keyboard

let press = null, hovered = -1;

const pointer = event => [event.offsetX, event.offsetY];
function nearest([x, y]) {
  if (!shown) return -1;
  let best = -1, least = NEAR;
  facts.landmarks.forEach((_, k) => {
    const place = places(k);
    if (!place) return;
    const [px, py] = toScreen(place), distance = Math.hypot(px - x, py - y) - (k === current ? 2 : 0);
    if (distance < least) [best, least] = [k, distance];
  });
  return best;
}

canvas.addEventListener('pointerdown', event => {
  if (!shown || event.button > 1) return;
  canvas.setPointerCapture(event.pointerId);
  canvas.focus({ preventScroll: true });
  const start = pointer(event), grabbed = event.button ? -1 : nearest(start);
  press = { start, last: start, grabbed, moved: false, pans: event.button === 1 };
  if (grabbed >= 0) {
    const [x, y] = toScreen(places(grabbed));
    press.offset = [x - start[0], y - start[1]];
    choose(grabbed);
  }
});

canvas.addEventListener('pointermove', event => {
  const here = pointer(event);
  if (!press) {
    const over = nearest(here);
    canvas.classList.toggle('grab', over >= 0);
    if (over !== hovered) { hovered = over; draw(); }
    return;
  }
  press.moved ||= Math.hypot(here[0] - press.start[0], here[1] - press.start[1]) > MOVED;
  if (!press.moved) return;
  canvas.classList.add('grabbing');
  if (press.grabbed >= 0) {
    const target = [here[0] + press.offset[0], here[1] + press.offset[1]];
    show({ [facts.landmarks[press.grabbed]]: inside(toPicture(target)) });
  } else {
    view.x += here[0] - press.last[0];
    view.y += here[1] - press.last[1];
    draw();
  }
  press.last = here;
});

canvas.addEventListener('pointerup', event => {
  canvas.classList.remove('grabbing');
  const { grabbed, moved, pans } = press ?? {};
  const done = press;
  press = null;
  if (!done || !shown) return;
  if (grabbed >= 0) {
    if (moved) change({ [facts.landmarks[grabbed]]: pointOf(grabbed) });
  } else if (!moved && !pans) {
    const point = toPicture(pointer(event));
    const over = point[0] >= -0.5 && point[1] >= -0.5 && point[0] <= shown.width - 0.5 && point[1] <= shown.height - 0.5;
    if (over) place(point);
  }
});

canvas.addEventListener('pointercancel', () => {
  const was = press;
  press = null;
  if (was?.grabbed >= 0 && shown) open(shown.picture); // as it is on disk
});

canvas.addEventListener('wheel', event => {
  event.preventDefault();
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
  zoom(Math.exp(-clamp(event.deltaY * lines, -120, 120) * 0.0035), pointer(event));
}, { passive: false });

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const COMMANDS = {
  i: toggleInvisible, z: undo, n: next, p: previous, f: fitView,
  '+': () => zoom(1.3), '=': () => zoom(1.3), '-': () => zoom(1 / 1.3),
  ' ': confirmPicture, Enter: confirmPicture,
  Delete: () => isSet(current) && change({ [facts.landmarks[current]]: null }),
  Backspace: () => isSet(current) && change({ [facts.landmarks[current]]: null }),
  ',': () => choose((current + facts.landmarks.length - 1) % facts.landmarks.length),
  '.': () => choose((current + 1) % facts.landmarks.length),
};
const WITHOUT_PICTURE = new Set(['z', 'n', 'p', ' ', 'Enter']);

addEventListener('keydown', event => {
  const inText = event.target === at('search'), command = event.ctrlKey || event.metaKey;
  if (document.querySelector('dialog[open]') || !facts || event.altKey) return;
  if (inText) {
    if (event.key === 'Escape' || event.key === 'Enter') canvas.focus({ preventScroll: true });
    return;
  }
  if (command && event.key !== 'z') return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const onButton = event.target.tagName === 'BUTTON' && (key === ' ' || key === 'Enter');
  if (onButton) return; // it is pressed
  if (key === '/' || key === '?') {
    event.preventDefault();
    return key === '/' ? at('search').focus() : at('keys').showModal();
  }
  const landmark = KEYS.indexOf(key);
  if (shown && !command && landmark >= 0 && key.length === 1 && landmark < facts.landmarks.length) {
    event.preventDefault();
    return choose(landmark);
  }
  if (shown && ARROWS[key]) {
    event.preventDefault();
    const step = event.shiftKey ? 10 : 1;
    return nudge(step * ARROWS[key][0], step * ARROWS[key][1]);
  }
  if (COMMANDS[key] && (shown || WITHOUT_PICTURE.has(key)) && !(event.repeat && WITHOUT_PICTURE.has(key))) {
    event.preventDefault();
    COMMANDS[key]();
  }
});

// ---------------------------------------------------------------- the gallery: only what is seen exists

const TILE = 116, GAP = 6, EDGE = 8;
const FILTERS = {
  all: 'All', unlabelled: 'Unlabelled', labelled: 'Labelled', least: 'Unsure', broken: 'Broken',
};
let filter = 'all', listed = [];
const tiles = new Map(); // picture -> button

function makeFilters() {
  at('filters').replaceChildren(...Object.entries(FILTERS).map(([name, text]) => {
    const button = make('button', { type: 'button', textContent: text, onclick: () => { filter = name; at('list').scrollTop = 0; list(); } });
    button.setAttribute('role', 'radio');
    button.dataset.filter = name;
    return button;
  }));
}

let listing;
const listSoon = () => { listing ||= setTimeout(() => { listing = 0; list(); }, 150); };

function list() {
  const open = i => states[i] === UNTOUCHED || states[i] === PARTLY;
  const all = [...states.keys()], search = at('search').value.trim().toLowerCase();
  const kinds = {
    all: () => all,
    unlabelled: () => all.filter(open),
    labelled: () => all.filter(i => states[i] === COMPLETE),
    least: () => (least ?? all).filter(open),
    broken: () => all.filter(i => states[i] === BROKEN),
  };
  for (const button of at('filters').children) {
    const name = button.dataset.filter;
    button.setAttribute('aria-checked', name === filter);
    button.hidden = (name === 'least' && !least) || (name === 'broken' && !Object.keys(reasons).length);
  }
  listed = kinds[filter]();
  if (search) listed = listed.filter(i => facts.names[i].toLowerCase().includes(search));
  drawTiles();
}

function drawTiles() {
  const box = at('list'), columns = Math.max(1, Math.floor((box.clientWidth - EDGE) / (TILE + GAP)));
  const rows = Math.ceil(listed.length / columns), step = TILE + GAP;
  at('tiles').style.height = `${rows * step + EDGE}px`;
  const first = Math.max(0, Math.floor(box.scrollTop / step) - 1) * columns;
  const last = Math.min(listed.length, (Math.ceil((box.scrollTop + box.clientHeight) / step) + 1) * columns);
  const wanted = new Map();
  for (let place = first; place < last; place++) wanted.set(listed[place], place);
  for (const [picture, tile] of tiles) {
    if (!wanted.has(picture)) { tile.remove(); tiles.delete(picture); }
  }
  for (const [picture, place] of wanted) {
    const tile = tiles.get(picture) ?? makeTile(picture);
    tile.style.transform = `translate(${EDGE + (place % columns) * step}px, ${Math.floor(place / columns) * step}px)`;
    showTile(tile, picture);
  }
}

function makeTile(picture) {
  const name = facts.names[picture];
  const image = make('img', { alt: '', decoding: 'async', src: `pictures/${facts.key}/192/${picture}`, onerror: () => image.remove() });
  const tile = make('button', { type: 'button', title: name, onclick: () => { open(picture); canvas.focus({ preventScroll: true }); } },
    image, make('b'), make('em'));
  at('tiles').append(tile);
  tiles.set(picture, tile);
  return tile;
}

function showTile(tile, picture) {
  const state = STATES[states[picture]], confidence = sure?.[picture] ?? null;
  const guessed = state !== 'complete' && state !== 'broken' && confidence !== null;
  tile.className = state;
  tile.setAttribute('aria-current', shown?.picture === picture);
  const words = guessed ? `, ${Math.round(100 * confidence)} % sure` : '';
  tile.setAttribute('aria-label', `${facts.names[picture]}: ${state}${words}`);
  const label = tile.querySelector('em');
  label.textContent = state === 'broken' ? 'cannot be read' : guessed ? `${Math.round(100 * confidence)} %` : '';
  label.hidden = !label.textContent;
  if (state === 'broken') tile.title = `${facts.names[picture]}: ${reasons[picture]}`;
}

function setState(picture, state) {
  if (states[picture] === BROKEN || states[picture] === state) return;
  states[picture] = state;
  if (tiles.has(picture)) showTile(tiles.get(picture), picture);
  listSoon();
}

at('list').addEventListener('scroll', drawTiles);
at('search').addEventListener('input', list);

// ---------------------------------------------------------------- what happens elsewhere

async function poll() {
  try {
    const query = new URLSearchParams({ client, ...known });
    if (shown) query.set('picture', shown.picture);
    hear(await ask(`api/changes?${query}`));
    if (failure && !queue.length) { failure = null; showSaved(); }
  } catch (error) {
    if (!failure && !(error instanceof Refused)) { failure = 'The server does not answer. Everything that was said to be saved is on disk.'; showSaved(); }
  }
  setTimeout(poll, POLL);
}

function hear(news) {
  if (news.key !== facts.key || news.revision < known.revision) {
    if (!queue.length && !draft) location.reload(); // other pictures, or another journal
    return;
  }
  const newFit = news.sure !== undefined, newBroken = Object.keys(news.broken).length > 0;
  Object.assign(reasons, news.broken);
  for (const [picture, state, revision] of news.changed) {
    states[picture] = state;
    if (shown?.picture === picture && (revisions.get(picture) ?? 0) < revision) elsewhere(picture, revision);
  }
  if (newFit) [sure, least] = [news.sure, news.order];
  status = news.status;
  known = { revision: news.revision, fits: status.fits, broken: newBroken ? Object.keys(reasons).length : Math.max(known.broken, 0) };
  if (newFit && shown && shown.fits !== status.fits) predictAgain();
  if (news.changed.length || newFit || newBroken) list();
  showProgress(news.complete);
}

function elsewhere(picture) {
  const mine = queue.some(c => c.undo || c.picture === picture) || draft || press;
  if (mine) return; // the answer to that change tells
  open(picture);
  toast('This picture was changed in another tab.');
}

async function predictAgain() {
  const { picture } = shown;
  const told = await ask(`api/pictures/${picture}`).catch(() => null);
  if (!told || shown?.picture !== picture || press) return;
  Object.assign(shown, { predicted: told.predicted, confidence: told.confidence, fits: told.fits });
  draw();
}

function showProgress(complete) {
  const total = states.length - Object.keys(reasons).length;
  at('progress').firstElementChild.style.width = `${(100 * complete) / Math.max(1, total)}%`;
  at('progress').setAttribute('aria-valuenow', complete);
  at('progress').setAttribute('aria-valuemax', total);
  at('count').textContent = `${complete.toLocaleString('en')} of ${total.toLocaleString('en')} labelled`;
  const { described, pictures, busy, problem, labelled, seconds, fits } = status, line = at('fit');
  line.className = problem ? 'problem' : busy ? 'busy' : '';
  const fitted = labelled ? `Fit on ${plural(labelled, 'picture')} in ${seconds.toFixed(1)} s` : '';
  line.textContent = !facts.learns ? 'No model: nothing is predicted'
    : problem ? problem
    : busy && described < pictures ? `Describing: ${described.toLocaleString('en')} of ${plural(pictures, 'picture')}`
    : busy ? `Fitting${fitted ? ` · ${fitted}` : ''}`
    : fitted || (fits ? 'Predictions of the given model' : 'Label one picture to get predictions');
  line.title = line.textContent;
}

// ---------------------------------------------------------------- export and start

at('export').onclick = async () => {
  flush();
  const [paragraph, links] = [at('exported').querySelector('p'), at('exported').querySelector('ul')];
  links.replaceChildren();
  try {
    const { labelled, predicted, folder, files, model } = await ask('api/export', { client });
    paragraph.textContent = `Written to ${folder}, ready to be read as data.labels:`;
    const what = {
      'labels-csv': `${plural(labelled, 'labelled picture')}, CSV`,
      'labels-coco': `${plural(labelled, 'labelled picture')}, COCO keypoints`,
      'all-csv': `these and ${plural(predicted, 'predicted one')}, CSV`,
      'all-coco': `these and ${plural(predicted, 'predicted one')} with confidence, COCO keypoints`,
    };
    for (const [kind, name] of Object.entries(files)) {
      if (!predicted && kind.startsWith('all')) continue;
      links.append(make('li', {}, make('a', { href: `export/${kind}`, download: name, textContent: name }), `: ${what[kind]}`));
    }
    if (model) links.append(make('li', { textContent: `${model}: the fit, for other pictures: predict --model ${folder}/${model} --images DIR` }));
  } catch (error) {
    paragraph.textContent = error instanceof Refused ? error.message : 'The server does not answer.';
  }
  at('exported').showModal();
};
at('help').onclick = () => at('keys').showModal();
at('in').onclick = () => zoom(1.3);
at('out').onclick = () => zoom(1 / 1.3);
at('whole').onclick = fitView;
at('alarm').querySelector('button').onclick = () => wake();
new ResizeObserver(() => { draw(); drawTiles(); }).observe(at('stage'));
addEventListener('beforeunload', event => { if (queue.length || draft) event.preventDefault(); });
addEventListener('pagehide', flush);

async function start() {
  facts = await ask('api/session');
  document.title = `Label ${facts.folder}`;
  at('folder').textContent = at('folder').title = facts.folder;
  states = facts.names.map(() => UNTOUCHED);
  makeList();
  makeFilters();
  showSaved();
  hear(await ask(`api/changes?${new URLSearchParams({ client, ...known })}`));
  list();
  await next();
  canvas.focus({ preventScroll: true });
  setTimeout(poll, POLL);
}

start().catch(error => blank(`The page cannot start: ${error.message}`));
