"""HTML that escapes by default: anything that is not `Markup` is text, whatever it contains."""

import html
import re
from typing import Any

VOID = frozenset({'img', 'meta', 'wbr'})  # elements without an end tag


class Markup(str):
  """A piece of HTML, already escaped. Adding a plain string gives a plain string, that is, text."""


def escape(text: Any) -> Markup:
  """Escapes text for HTML, including attributes; what UTF-8 cannot encode becomes e.g. \\udc80.

  >>> escape('a<b')
  'a&lt;b'
  """
  return Markup(html.escape(str(text).encode('utf-8', 'backslashreplace').decode()))


def element(name: str, *children: Any, **attributes: Any) -> Markup:
  """<name attributes>children</name>; None is left out, lists are flattened.

  Attribute names: class_ becomes class, data_x becomes data-x. Attribute values, and children that
  are not Markup, are escaped.

  >>> element('a', 'x & y', class_='note', href='#"')
  '<a class="note" href="#&quot;">x &amp; y</a>'
  """
  given = (
    f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
    for key, value in attributes.items()
    if value is not None
  )
  end = '' if name in VOID else f'</{name}>'
  return Markup(f'<{name}{"".join(given)}>{join(children)}{end}')


def breakable(name: str) -> list[str | Markup]:
  """A name that may break across lines after '_', '.' and '/'; its text is unchanged."""
  parts = re.split(r'(?<=[_./])(?=.)', name)
  return [piece for part in parts for piece in (element('wbr'), part)][1:]


def join(children: Any) -> Markup:
  """Concatenates children, escaping those that are not Markup."""
  if children is None:
    return Markup()
  if isinstance(children, (list, tuple)):
    return Markup(''.join(join(child) for child in children))
  return children if isinstance(children, Markup) else escape(children)
