"""One HTML page with everything in it: no other file, no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .3rem .7rem; text-align: right;
  border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
p { max-width: 46rem; }
"""


def make_page(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[tuple[str, str, bytes]],
) -> str:
  """Makes a self-contained HTML page of figures and a table.

  Args:
    rows: Rows of the table, all with the same keys. Each becomes a column.
    figures: Heading, text and PNG of each figure.
  """
  parts = [
      '<!doctype html><html lang="en"><meta charset="utf-8">',
      f'<title>{html.escape(title)}</title><style>{_STYLE}</style>',
      f'<h1>{html.escape(title)}</h1>',
  ]
  for heading, text, png in figures:
    data = base64.b64encode(png).decode('ascii')
    parts.append(
        f'<h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>'
        f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
    )
  parts.append('<h2>Numbers</h2><div class="wide"><table>')
  for index, name in enumerate(rows[0]):
    tag = 'th' if index == 0 else 'td'
    cells = ''.join(f'<{tag}>{_cell(row[name])}</{tag}>' for row in rows)
    parts.append(f'<tr><th>{html.escape(name)}</th>{cells}</tr>')
  parts.append('</table></div></html>')
  return '\n'.join(parts) + '\n'


def _cell(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:.4g}'
  return html.escape(str(value))
