"""The pages of reports: one HTML file that needs nothing else, neither network nor script. Style, tables, numbers.

A report has a Jinja template, `template(kind, body)`; everything that is put in is escaped on its way.
"""

from collections.abc import Mapping
from typing import Any

from quant_assets.core.drawing import THEME

NONE = "\N{EN DASH}"
"""Stands where there is no number."""

DARK = {
    "ink": "#e6ebf4",
    "muted": "#93a1b8",
    "grid": "#253149",
    "accent": "#6ea8ff",
    "bench": "#8291ab",
    "loss": "#f07878",
}
"""Colours of `THEME` that differ on a dark page."""

_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }} · KIND</title>
<style>
:root {
  --page: #f5f7fa; --card: #ffffff; --line: #e2e8f0; --soft: #f1f5f9; --gain-rgb: 22 150 90; --loss-rgb: 220 60 60;
  --gain: #137a4b; --loss-text: #b93030; --warn: #8a5a00; --warn-back: #fff7e0; --warn-line: #f2d48a;
  {{ light }}
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0b1120; --card: #131c2e; --line: #253149; --soft: #1a2539; --gain-rgb: 52 199 128; --loss-rgb: 240 96 96;
    --gain: #4ade9b; --loss-text: #ff8f8f; --warn: #f7cf6b; --warn-back: #2b2410; --warn-line: #5c4a17;
    {{ dark }}
  }
}
@media print {
  :root {
    --page: #fff; --card: #fff; --line: #d5dbe3; --soft: #f4f6f8; --gain-rgb: 22 150 90; --loss-rgb: 220 60 60;
    --gain: #137a4b; --loss-text: #b93030; --warn: #8a5a00; --warn-back: #fff; --warn-line: #f2d48a;
    {{ light }}
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 24px 48px; }
header { display: flex; flex-wrap: wrap; gap: 4px 24px; align-items: baseline; justify-content: space-between;
  margin-bottom: 20px; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -0.02em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0; letter-spacing: -0.005em; }
p { margin: 0; }
.sub, .hint { color: var(--muted); font-size: 13px; }
.hint { margin-top: 8px; }
.lede { color: var(--muted); margin: -12px 0 20px; max-width: 75ch; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin-bottom: 16px; min-width: 0; }
.head { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 4px 20px; margin-bottom: 10px;
  align-items: baseline; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 16px; align-items: start; }
.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 12px; margin-bottom: 16px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; min-width: 0; }
.tile b { display: block; font-size: 25px; line-height: 1.25; letter-spacing: -0.02em; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--muted); font-size: 12.5px; }
.warn { background: var(--warn-back); border: 1px solid var(--warn-line); color: var(--warn); border-radius: 12px;
  padding: 12px 20px; margin-bottom: 16px; font-size: 14px; }
.warn ul { margin: 0; padding-left: 18px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; color: var(--muted); }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.scroll { overflow-x: auto; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font-family: inherit; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { color: var(--muted); font-weight: 500; font-size: 12.5px; text-align: right; padding: 4px 10px 6px;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--soft); white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.left { text-align: left; }
.wide { white-space: normal; overflow-wrap: anywhere; }
.gain { color: var(--gain); }
.loss { color: var(--loss-text); }
.none { color: var(--muted); }
.months { border-collapse: separate; border-spacing: 3px; table-layout: fixed; min-width: 720px; font-size: 12.5px; }
.months th { border: 0; padding: 2px; text-align: center; }
.months td { border: 0; border-radius: 5px; text-align: center; padding: 5px 2px; }
.months th[scope=row] { text-align: left; color: var(--ink); }
.months .gain { color: var(--ink); background: rgb(var(--gain-rgb) / var(--a)); }
.months .loss { color: var(--ink); background: rgb(var(--loss-rgb) / var(--a)); }
.months .total { font-weight: 650; }
.bar { display: inline-block; height: 8px; border-radius: 2px; vertical-align: middle; margin-left: 10px; }
.track { display: inline-flex; width: 90px; justify-content: flex-start; }
.bar.gain { background: rgb(var(--gain-rgb)); } .bar.loss { background: rgb(var(--loss-rgb)); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 18px; margin: 0; font-size: 13.5px; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
pre { margin: 0; font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media (max-width: 820px) {
  main { padding: 20px 14px 32px; }
  .pair { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .card { padding: 14px; }
  .scroll .chart { min-width: 600px; }
  .pair .scroll .chart { min-width: 0; }
}
@media print {
  main { max-width: none; padding: 0; }
  .card, .tile { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
</style>
</head>
<body>
"""

TABLE = """\
{% macro table(shape, rows) %}
  <div class="scroll"><table>
  <thead><tr>{% for name, align in shape %}<th class="{{ align }}" scope="col">{{ name }}</th>{% endfor %}</tr></thead>
  <tbody>
  {% for row in rows %}
    <tr>{% for cell in row -%}
      <td class="{{ shape[loop.index0][1] }} {{ cell.sign }}">{{ cell.text }}
      {%- if cell.bar is not none -%}
      <span class="track"><i class="bar {{ cell.sign }}" style="width:{{ cell.bar }}px"></i></span>
      {%- endif %}</td>
    {%- endfor %}</tr>
  {% endfor %}
  </tbody></table></div>
{% endmacro %}
"""
"""Jinja macro: `shape` has (name, class) of each column, `rows` has `cell`s."""


OPENING = """\
{% macro opening(title, sub, description, tiles, caveats) %}
<header>
  <h1>{{ title }}</h1>
  <p class="sub">{{ sub }}</p>
</header>
{% if description %}<p class="lede">{{ description }}</p>{% endif %}

<section class="tiles" aria-label="Headline figures">
{% for tile in tiles %}
  <div class="tile"><span>{{ tile.name }}</span><b>{{ tile.value }}</b><span>{{ tile.note }}</span></div>
{% endfor %}
</section>

{% if caveats %}
<section class="warn" aria-label="Caveats"><ul>
  {% for caveat in caveats %}<li>{{ caveat }}</li>{% endfor %}
</ul></section>
{% endif %}
{% endmacro %}
"""
"""Jinja macro: what a page begins with; a tile has name, value and note."""

CLOSING = """\
{% macro definitions(lines) %}
  <dl>{% for name, value in lines %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% endmacro %}
{% macro closing(lineage, spec, method) %}
<div class="pair">
<section class="card">
  <div class="head"><h2>Lineage</h2></div>
  {{ definitions(lineage) }}
</section>
<section class="card">
  <div class="head"><h2>Configuration</h2></div>
  <pre>{{ spec }}</pre>
</section>
</div>

<p class="hint">{{ method }}</p>
{% endmacro %}
"""
"""Jinja macros: what a page ends with, and a list of names with their values."""


def template(kind: str, body: str) -> str:
    """The template of a page whose title ends with `kind`; `body` is its main element."""
    return f"{_HEAD.replace('KIND', kind)}{body}</body>\n</html>\n"


def render(page: str, **values: Any) -> str:
    """Fill a `template`, `title` among the values. The same values give the same text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    themes = {name: Markup(_declarations(colours)) for name, colours in (("light", THEME), ("dark", DARK))}
    return environment.from_string(page).render(**themes, **values)


def cell(text: str, value: float | None = None, bar: float | None = None) -> dict[str, Any]:
    """One cell of a table: its text, coloured by the sign of `value`, with a bar of so many pixels."""
    sign = "" if value is None or value == 0 else "gain" if value > 0 else "loss"
    return {"text": text, "sign": sign, "bar": None if bar is None else f"{bar:.0f}"}


def minus(text: str) -> str:
    """A number's text with a minus sign for its hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")


def percent(value: float | None, digits: int = 1) -> str:
    """0.125 is 12.5%."""
    return NONE if value is None else minus(f"{value * 100:,.{digits}f}%")


def ratio(value: float | None, digits: int = 2) -> str:
    """A plain number in so many decimals; a zero has no sign."""
    return NONE if value is None else minus(f"{round(value, digits) + 0.0:,.{digits}f}")


def yaml_text(said: Mapping[str, Any]) -> str:
    """A strategy's file as a page shows it."""
    import yaml

    return yaml.safe_dump(dict(said), sort_keys=False, allow_unicode=True, width=1000).strip()


def _declarations(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
