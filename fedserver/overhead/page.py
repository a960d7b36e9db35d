"""The report as one HTML file: no script, nothing from any network, light and dark, on paper and on a phone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from fedserver.overhead.blocks import Bars, Block, Curves, Points, Report, Section, Table, Text
from fedserver.overhead.charts import COLOURS, FAINT, FILLS, INK, PAPER, THEME, Drawn

_LIGHT: Final = "".join(f"{THEME[light]}:{light};" for light, _ in (*COLOURS, *FILLS))
_DARK: Final = "".join(f"{THEME[light]}:{dark};" for light, dark in (*COLOURS, *FILLS))
STYLE: Final = f"""
:root {{
  color-scheme: light dark; --ink:{INK}; --soft:#5a626d; --line:{FAINT}; --paper:{PAPER}; --band:#f3f5f7;
  {_LIGHT}
}}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --ink:#e6e9ed; --soft:#a3abb6; --line:#3a414b; --paper:#15181c; --band:#1f242a; {_DARK} }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; text-wrap: balance; }}
h2 {{ font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--line); }}
p, li {{ max-width: 46rem; }}
.about, figcaption, .caption {{ color: var(--soft); }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: 0; padding: 0; list-style: none; }}
a {{ color: inherit; }}
#answer ol {{ font-size: 1.06rem; padding-left: 1.4rem; }}
#answer li {{ margin: .5rem 0; max-width: 52rem; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem 2rem; }}
figure {{ margin: .6rem 0; max-width: 34rem; break-inside: avoid; }}
figure svg {{ display: block; width: 100%; height: auto; }}
figcaption {{ font-size: .88rem; margin-top: .3rem; }}
.scroll {{ overflow-x: auto; margin: 0 0 1rem; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
.caption {{ font-size: .88rem; margin: 1.4rem 0 .4rem; }}
td {{ white-space: nowrap; }}
th, td {{ padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }}
th {{ background: var(--band); vertical-align: bottom; }}
.number {{ text-align: right; }}
td.long {{ min-width: 14rem; white-space: normal; }}
summary {{ cursor: pointer; margin: .6rem 0; }}
footer {{ margin-top: 3rem; font-size: .85rem; color: var(--soft); }}
@media (max-width: 40rem) {{
  body {{ font-size: 15px; }}
  th, td {{ padding: .3rem .45rem; }}
  td:first-child, th:first-child {{ position: sticky; left: 0; background: var(--paper); max-width: 10rem; }}
  td.long:first-child {{ min-width: 8.5rem; }}
}}
@media print {{
  body {{ font-size: 10pt; }} main {{ max-width: none; padding: 0; }} nav {{ display: none; }}
  h2, .caption {{ break-after: avoid; }} tr {{ break-inside: avoid; }} .scroll {{ overflow: visible; }}
  table {{ font-size: 8.5pt; }} th, td {{ padding: .2rem .4rem; }}
}}
"""
LONG, LONG_TEXT = ' class="long"', 24  # a cell of more letters must not shrink to a word a line
_RULE: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(report: Report, drawn: Mapping[str, Drawn]) -> str:
    """The whole page. drawn: its figures, by name."""
    contents = "".join(f'<li><a href="#{each.key}">{escape(each.title)}</a></li>' for each in report.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_RULE}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(report.title)}</h1>\n<p class="about">{escape(report.about)}</p>\n'
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n'
        + "".join(_section(each, drawn) for each in report.sections)
        + "<footer>Every figure of this page is in overhead.json beside it.</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section, drawn: Mapping[str, Drawn]) -> str:
    parts, figures = [f'<section id="{section.key}">\n<h2>{escape(section.title)}</h2>\n'], list[str]()
    for block in (*section.blocks, None):
        if isinstance(block, Bars | Curves):
            caption = f"<figcaption>{escape(block.caption)}</figcaption>"
            figures.append(f'<figure id="figure-{block.name}">{drawn[block.name].inline}{caption}</figure>\n')
            continue
        if figures:  # those that follow one another stand side by side where there is room
            parts.append(f'<div class="figures">\n{"".join(figures)}</div>\n')
            figures = []
        if block is not None:
            parts.append(_block(block))
    return "".join((*parts, "</section>\n"))


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>\n"
    if isinstance(block, Points):
        kind = "ol" if block.numbered else "ul"
        return f"<{kind}>{''.join(f'<li>{escape(each)}</li>' for each in block.points)}</{kind}>\n"
    if isinstance(block, Table):
        return _table(block)
    raise TypeError(f"{type(block).__name__} is drawn, not written")


def _table(table: Table) -> str:
    classes = [' class="number"' if place in table.numeric else "" for place in range(len(table.headings))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in zip(classes, table.headings, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(_cell(kind, text) for kind, text in zip(classes, row, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    name = escape(table.caption)
    body = (
        f'<div class="scroll" tabindex="0"><table aria-label="{name}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n"
    )
    if table.folded:
        return f"<details><summary>{name}</summary>{body}</details>\n"
    return f'<p class="caption">{name}</p>\n{body}'


def _cell(kind: str, text: str) -> str:
    return f"<td{kind or (LONG if len(text) > LONG_TEXT else '')}>{escape(text)}</td>"
