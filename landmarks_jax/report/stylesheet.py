"""The report's style sheet, for phones and wide screens, light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1d2126; --soft: #616a75; --hair: #e4e5e3; --wash: #f4f4f1;
  --trained: #1f5fd0; --random-init: #b8640a; --mean-shape: #7d848c;
  --base: #a3307f; --same-position: #7d848c; --majority: #7d848c;
  --other-0: #0f7f72; --other-1: #8c3fb0; --other-2: #b3293f; --other-3: #5d7a12;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e4e6e8; --soft: #9aa3ad; --hair: #2b3036; --wash: #1c2025;
    --base: #ee8fc9; --same-position: #979fa8; --majority: #979fa8;
    --trained: #7fb0ff; --random-init: #eba658; --mean-shape: #979fa8;
    --other-0: #4fc7b5; --other-1: #cd93ea; --other-2: #f28797; --other-3: #acc95f;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif;
}
main { max-width: 1000px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 {
  font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .3rem; padding-top: 1.2rem;
  border-top: 1px solid var(--hair);
}
h3 { font-size: 1rem; margin: 1.8rem 0 .2rem; }
h1, h2, h3, figcaption, p, dd { overflow-wrap: anywhere; }
p { margin: .3rem 0 .8rem; max-width: 44em; }
p.soft, figcaption, caption, .soft { color: var(--soft); font-size: .875rem; line-height: 1.45; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .18em; }
code, pre, .mono { font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre {
  background: var(--wash); border-radius: 8px; padding: 12px 14px; margin: .5rem 0 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
pre span { display: inline-block; max-width: 100%; word-break: break-all; }
nav { margin: 1.1rem 0 0; display: flex; flex-wrap: wrap; gap: 8px; }
nav a {
  font-size: .875rem; text-decoration: none; color: var(--ink); background: var(--wash);
  border-radius: 99px; padding: 6px 13px; overflow-wrap: anywhere;
}
dl.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 14px 20px;
  margin: 1.2rem 0 0; grid-auto-flow: dense;
}
dl.facts dt { color: var(--soft); font-size: .8rem; }
dl.facts dd { margin: 0; }
dl.facts .long { grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .6rem; }
th, td { text-align: right; padding: 7px 0 7px 12px; vertical-align: top; font-weight: 400; }
th:first-child, td:first-child {
  text-align: left; padding-left: 0; overflow-wrap: anywhere; min-width: 5.4em;
}
td { white-space: nowrap; }
td:first-child, .options td { white-space: normal; }
thead th { color: var(--soft); font-size: .8rem; vertical-align: bottom; line-height: 1.25; }
tbody tr { border-top: 1px solid var(--hair); }
td small, th small { display: block; color: var(--soft); font-size: .78rem; white-space: nowrap; }
tbody th small { white-space: normal; }
.scores td { font-size: 1.05rem; }
.scores .trained { font-weight: 600; color: var(--trained); }
.scores .trained small { font-weight: 400; }
.landmarks td, .landmarks th { padding-top: 3px; padding-bottom: 3px; font-size: .875rem; }
.landmarks td:first-child { min-width: 6.8em; }
.numbers td { font-size: .875rem; padding-top: 4px; padding-bottom: 4px; }
.landmarks .track { width: 30%; padding-left: 12px; padding-right: 4px; text-align: left; }
.landmarks thead th { padding-left: 10px; }
.track div { position: relative; height: 1.4em; }
.track div::before {
  content: ''; position: absolute; left: 0; right: 0; top: 50%; border-top: 1px solid var(--hair);
}
.track i {
  position: absolute; left: var(--at); top: 50%; width: 9px; height: 9px; margin: -4.5px;
  border-radius: 50%; background: var(--paper); border: 2px solid var(--soft);
}
.track i.mean-shape { border-color: var(--mean-shape); }
.track i.same-position { border-color: var(--same-position); }
.track i.majority { border-color: var(--majority); }
.track i.base { border-color: var(--base); }
.track i.random-init { border-color: var(--random-init); }
.track i.trained { border-color: var(--trained); background: var(--trained); }
.track i.other-0 { border-color: var(--other-0); }
.track i.other-1 { border-color: var(--other-1); }
.track i.other-2 { border-color: var(--other-2); }
.track i.other-3 { border-color: var(--other-3); }
.options td, .options th { font-size: .84rem; padding: 4px 0; text-align: left; }
.options th { color: var(--soft); width: 42%; padding-right: 12px; }
.options th[colspan] { color: var(--ink); font-weight: 600; padding-top: 1.3rem; }
.options td { overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: .8rem 0 .2rem; }
.legend { font-size: .875rem; }
.legend span { display: inline-flex; align-items: center; gap: 7px; }
.legend svg { width: 30px; height: 8px; overflow: visible; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
.charts { gap: 18px 36px; margin: .8rem 0 .6rem; }
.charts figure { max-width: 520px; }
figure { margin: 0; min-width: 0; }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
svg.chart { font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--hair); fill: none; }
svg text { fill: var(--soft); }
svg .axis-label { font-size: 12px; fill: var(--ink); }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
svg .line { stroke: var(--ink); }
svg .line.mean-shape { stroke: var(--mean-shape); stroke-dasharray: .1 4.4; stroke-width: 2.4; }
svg .line.same-position { stroke: var(--same-position); stroke-dasharray: .1 4.4; }
svg .line.majority { stroke: var(--majority); stroke-dasharray: .1 4.4; }
svg .line.same-position { stroke-width: 2.4; }
svg .line.majority { stroke-width: 2.4; }
svg .line.base { stroke: var(--base); stroke-dasharray: 9 4 .1 4; }
svg .line.random-init { stroke: var(--random-init); stroke-dasharray: 7 4.5; }
svg .line.trained { stroke: var(--trained); stroke-width: 2.4; }
svg .line.other-0 { stroke: var(--other-0); }
svg .line.other-1 { stroke: var(--other-1); stroke-dasharray: 7 4.5; }
svg .line.other-2 { stroke: var(--other-2); stroke-dasharray: .1 4.4; stroke-width: 2.4; }
svg .line.other-3 { stroke: var(--other-3); stroke-dasharray: 9 4 .1 4; }
svg .line.alone { stroke-width: 7; stroke-dasharray: none; }
svg .whisker { fill: none; stroke-width: 1.2; stroke: var(--ink); }
svg .whisker.mean-shape, svg .whisker.same-position,
svg .whisker.majority { stroke: var(--mean-shape); }
svg .whisker.random-init { stroke: var(--random-init); }
svg .whisker.base { stroke: var(--base); }
svg .whisker.trained { stroke: var(--trained); }
svg .whisker.other-0 { stroke: var(--other-0); }
svg .whisker.other-1 { stroke: var(--other-1); }
.maps { display: grid; gap: 8px; margin: .6rem 0; max-width: 720px; }
.maps { grid-template-columns: repeat(auto-fit, minmax(96px, 1fr)); }
.maps figcaption { text-align: center; }
svg.map { display: block; width: 100%; height: auto; max-height: 300px; color: var(--soft); }
svg.map.mean-shape { color: var(--mean-shape); }
svg.map.same-position { color: var(--same-position); }
svg.map.majority { color: var(--majority); }
svg.map.base { color: var(--base); }
svg.map.random-init { color: var(--random-init); }
svg.map.trained { color: var(--trained); }
svg.map.other-0 { color: var(--other-0); }
svg.map.other-1 { color: var(--other-1); }
svg.map.other-2 { color: var(--other-2); }
svg.map.other-3 { color: var(--other-3); }
svg.map circle { fill: currentColor; fill-opacity: .2; stroke: currentColor; }
svg.map circle { vector-effect: non-scaling-stroke; stroke-width: 1; }
svg.map.many circle { fill-opacity: .1; stroke-opacity: .7; }
svg.map .centre {
  stroke: var(--ink); stroke-width: 2.5; stroke-linecap: round; vector-effect: non-scaling-stroke;
}
svg.map.many .centre { stroke-width: 1.8; }
.photographs { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
.photographs { gap: 5px; margin: .6rem 0; }
.photographs figcaption { font-size: .74rem; line-height: 1.35; margin-top: 4px; }
.group { border-top: 1px solid var(--hair); padding-top: 8px; margin-top: 14px; }
.missing { aspect-ratio: 1; border-radius: 4px; background: var(--wash); }
svg.photograph { display: block; width: 100%; height: auto; border-radius: 4px; overflow: hidden; }
.photograph path { fill: none; stroke-linecap: round; }
.photograph .join.edge { stroke: #000; stroke-opacity: .45; stroke-width: 1.7; }
.photograph .join.fill { stroke: #fff; stroke-width: .9; }
.photograph .edge { stroke: #000; stroke-opacity: .75; stroke-width: 5.2; }
.photograph .fill { stroke-width: 3.8; }
.photograph.many .edge { stroke-width: 3.3; }
.photograph.many .fill { stroke-width: 2.4; }
.photograph.many .join.edge { stroke-width: 1.3; }
.photograph.many .join.fill { stroke-width: .7; }
.photograph .truth.edge { stroke-width: 2.6; }
.photograph .truth.fill { stroke-width: 1.3; }
.photograph.many .truth.edge { stroke-width: 1.7; }
.photograph.many .truth.fill { stroke-width: .8; }
.photograph .truth.fill { stroke: rgb(120, 245, 140); }
.photograph .prediction.fill, .mark .prediction.fill { stroke: rgb(225, 40, 30); }
.mark path { fill: none; stroke-linecap: round; }
.mark .edge { stroke: #000; stroke-opacity: .75; }
.mark .truth.fill { stroke: rgb(120, 245, 140); }
.mark .prediction.edge { stroke-width: 9; }
.mark .prediction.fill { stroke-width: 7; }
.mark .truth.edge { stroke-width: 3.4; }
.mark .truth.fill { stroke-width: 1.8; }
.matches { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)); }
.matches { gap: 8px; margin: .6rem 0; }
svg.match { display: block; width: 100%; height: auto; border-radius: 4px; overflow: hidden; }
.match path, .match circle { fill: none; stroke-linecap: round; }
.match .join.edge { stroke: #000; stroke-opacity: .45; stroke-width: 1.7; }
.match .join.fill { stroke: #fff; stroke-width: .9; }
.match .edge { stroke: #000; stroke-opacity: .75; stroke-width: 5; }
.match g path { stroke-width: 3.8; }
.match circle { stroke-width: 1.1; }
.match.many .edge { stroke-width: 3.3; }
.match.many .join.edge { stroke-width: 1.3; }
.match.many .join.fill { stroke-width: .7; }
.match.many g path { stroke-width: 2.4; }
.match.many circle { stroke-width: .8; }
.wide { overflow-x: auto; }
.sheet { overflow-x: auto; margin: .6rem 0; }
.sheet img { display: block; width: 100%; min-width: 620px; height: auto; border-radius: 4px; }
details { margin: .7rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .875rem; padding: 5px 0; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--hair); }
@media (min-width: 700px) {
  main { padding: 48px 32px 72px; }
  h1 { font-size: 2.1rem; }
  .photographs { grid-template-columns: repeat(6, 1fr); }
  .scores td, .scores th + th { padding-left: 28px; }
}
"""
