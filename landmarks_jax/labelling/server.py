"""The local page: Starlette routes over a `Session`. Loopback only, and only for its own page.

Other sites open in the same browser can send requests here, too, so anything that does not come
from this page is refused, judging by the Host header (DNS rebinding), the origin, and what the
browser says about the requesting site. No path and no name from a request reaches the file system:
pictures are requested by number, exports by kind.
"""

import json
import pathlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from landmarks_jax.data.source import BadImage
from landmarks_jax.labelling import export
from landmarks_jax.labelling.confirmed import Conflict
from landmarks_jax.labelling.journal import NotSaved
from landmarks_jax.labelling.session import Session

PAGE = pathlib.Path(__file__).parent / 'page'
FILES = {'': 'text/html', 'label.css': 'text/css', 'label.js': 'text/javascript'}
HOSTS = ('127.0.0.1', 'localhost', '[::1]')
MOST = 1 << 20  # bytes of a request
HEADERS = {
  'Content-Security-Policy': (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
}

Handler = Callable[[Request], Response]


def app(session: Session, *, port: int, output: pathlib.Path) -> Starlette:
  """The ASGI application; exports are written into the folder `output`."""
  routes = [Route(f'/{name}', _static(name), methods=['GET']) for name in FILES]
  routes += [
    Route('/api/session', lambda request: _fresh(session.facts()), methods=['GET']),
    Route('/api/changes', lambda request: _changes(session, request), methods=['GET']),
    Route('/api/pictures/{number:int}', lambda r: _picture(session, r), methods=['GET']),
    Route('/pictures/{key}/{side:int}/{number:int}', lambda r: _jpeg(session, r), methods=['GET']),
    Route('/api/next', _posted(lambda data: _next(session, data)), methods=['POST']),
    Route('/api/change', _posted(lambda data: _change(session, data)), methods=['POST']),
    Route('/api/undo', _posted(lambda data: _undo(session, data)), methods=['POST']),
    Route('/api/export', _posted(lambda data: export.write(session, output)), methods=['POST']),
    Route('/export/{kind}', lambda request: _download(output, request), methods=['GET']),
  ]
  application = Starlette(routes=routes)
  hosts = {f'{host}:{port}' for host in HOSTS}
  application.add_middleware(Guard, hosts=hosts)
  return application


class Guard:
  """Refuses requests that do not come from this page, and adds HEADERS to all responses."""

  def __init__(self, app: Any, *, hosts: set[str]) -> None:
    self._app, self._hosts = app, hosts

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """See the ASGI specification."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    fault = self._fault(Request(scope))
    answer = PlainTextResponse(f'{fault}\n', 403) if fault else self._app

    async def with_headers(message: Any) -> None:
      if message['type'] == 'http.response.start':
        extra = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
        message['headers'] = [*message['headers'], *extra]
      await send(message)

    await answer(scope, receive, with_headers)

  def _fault(self, request: Request) -> str | None:
    given = request.headers
    if given.get('host', '') not in self._hosts:
      return f'this server is not called {given.get("host", "")!r:.100}'
    origin, site = given.get('origin'), given.get('sec-fetch-site', 'same-origin')
    if origin is not None and origin not in {f'http://{host}' for host in self._hosts}:
      return f'the origin {origin!r:.100} is another one'
    opened = request.url.path == '/' and given.get('sec-fetch-mode') == 'navigate'
    if site not in ('same-origin', 'none') and not opened:
      return 'another site asked for this'
    if request.method == 'POST' and given.get('content-type') != 'application/json':
      return 'expected application/json'
    return None


def _static(name: str) -> Handler:
  async def answer(request: Request) -> Response:
    file = PAGE / (name or 'label.html')
    return FileResponse(file, media_type=FILES[name], headers={'Cache-Control': 'no-cache'})

  return answer


def _posted(act: Callable[[Mapping[str, Any]], Any]) -> Callable[[Request], Awaitable[Response]]:
  """A route that takes a JSON object, passes it to `act` and returns the result."""

  async def answer(request: Request) -> Response:
    body = b''
    async for part in request.stream():
      body += part
      if len(body) > MOST:
        return _fresh({'error': 'the request is too large'}, 413)
    try:
      data = json.loads(body)
    except (ValueError, RecursionError):
      data = None
    if not isinstance(data, dict):
      return _fresh({'error': 'expected a JSON object'}, 400)
    return await run_in_threadpool(_attempt, act, data)

  return answer


def _attempt(act: Callable[[Mapping[str, Any]], Any], data: Mapping[str, Any]) -> Response:
  try:
    return _fresh(act(data))
  except Conflict as error:
    return _fresh({'error': str(error), 'conflict': True}, 409)
  except NotSaved as error:
    return _fresh({'error': str(error)}, 507)
  except IndexError as error:
    return _fresh({'error': str(error)}, 404)
  except (ValueError, OSError) as error:
    return _fresh({'error': str(error)}, 400)


def _changes(session: Session, request: Request) -> Response:
  query = request.query_params
  try:
    numbers = {name: int(query[name]) for name in ('revision', 'fits', 'broken')}
    picture = int(query['picture']) if 'picture' in query else None
    client = _text(query, 'client')
  except (KeyError, ValueError) as error:
    return _fresh({'error': f'{error}'}, 400)
  return _fresh(session.changes(client, **numbers, picture=picture))


def _picture(session: Session, request: Request) -> Response:
  return _attempt(lambda data: session.picture(data['number']), request.path_params)


def _jpeg(session: Session, request: Request) -> Response:
  given = request.path_params
  if given['key'] != session.files.key or given['number'] >= len(session.files):
    return _fresh({'error': 'the pictures of this folder are others now; reload the page'}, 404)
  try:
    data = session.files.jpeg(given['number'], given['side'])
  except BadImage as error:
    return _fresh({'error': error.reason}, 404)
  except ValueError as error:
    return _fresh({'error': str(error)}, 400)
  keep = {'Cache-Control': 'private, max-age=86400, immutable'}
  return Response(data, media_type='image/jpeg', headers=keep)


def _next(session: Session, data: Mapping[str, Any]) -> Any:
  skipped = data.get('skipped', [])
  if not isinstance(skipped, list) or not all(type(i) is int for i in skipped):
    raise ValueError('skipped: expected a list of numbers')
  return {'picture': session.suggest(_text(data, 'client'), skipped)}


def _change(session: Session, data: Mapping[str, Any]) -> Any:
  number, base, points = (data.get(key) for key in ('picture', 'base', 'points'))
  if type(number) is not int or type(base) is not int or not isinstance(points, dict):
    raise ValueError('expected picture, base and points')
  session.change(number, points, base=base, client=_text(data, 'client'), id=_text(data, 'id'))
  return session.picture(number)


def _undo(session: Session, data: Mapping[str, Any]) -> Any:
  number = session.undo(_text(data, 'client'), id=_text(data, 'id'))
  if number is None:
    return {'picture': None}
  return {'picture': number, 'revision': session.labels.revision_of(session.files.names[number])}


def _download(output: pathlib.Path, request: Request) -> Response:
  name = export.FILES.get(request.path_params['kind'])
  if name is None or not (output / name).is_file():
    return _fresh({'error': 'there is no such export'}, 404)
  return FileResponse(output / name, filename=name, headers={'Cache-Control': 'no-store'})


def _text(data: Mapping[str, Any], key: str) -> str:
  value = data.get(key)
  if not isinstance(value, str) or not 0 < len(value) <= 64 or not value.isascii():
    raise ValueError(f'{key}: expected up to 64 letters')
  return value


def _fresh(data: Any, status: int = 200) -> Response:
  return JSONResponse(data, status, headers={'Cache-Control': 'no-store'})
