"""The page of a validation: its main element as a Jinja template, filled by `verdict_report`."""

from quant_assets.backtest.report_page import HEAT
from quant_assets.core.page import CLOSING, TABLE, template

_BODY = (
    CLOSING
    + TABLE
    + HEAT
    + """\
<style>
.pill { display: inline-block; border: 1px solid; border-radius: 999px; padding: 1px 11px; font-size: 12.5px;
  font-weight: 650; white-space: nowrap; }
.pill::before { margin-right: 6px; }
.pass { color: var(--gain); background: rgb(var(--gain-rgb) / 0.1); }
.pass::before { content: "\\2713"; }
.caution, .warning { color: var(--warn); background: var(--warn-back); }
.caution::before, .warning::before { content: "\\25B2"; }
.fail, .error { color: var(--loss-text); background: rgb(var(--loss-rgb) / 0.1); }
.fail::before, .error::before { content: "\\2715"; }
.unjudged, .note { color: var(--muted); background: var(--soft); }
.unjudged::before, .note::before { content: "\\25CB"; }
.banner { display: flex; flex-wrap: wrap; gap: 10px 18px; align-items: center; }
.banner .pill { font-size: 21px; padding: 4px 22px; border-width: 2px; }
.banner p { flex: 1 1 340px; overflow-wrap: anywhere; }
.rows td { vertical-align: top; padding-top: 7px; padding-bottom: 7px; }
.rows td:last-child { white-space: normal; min-width: 16em; color: var(--muted); }
.rows .value { font-weight: 650; }
.findings { list-style: none; margin: 0; padding: 0; font-size: 14px; }
.findings li { padding: 10px 0; border-top: 1px solid var(--soft); overflow-wrap: anywhere; }
.findings li:first-child { border-top: 0; padding-top: 0; }
.findings .name { display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: center; margin-bottom: 3px; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 40px; margin-top: 12px; }
.figures dl { grid-template-columns: minmax(0, 1fr) max-content; align-content: start; }
.figures dd { text-align: right; }
.facts { margin-top: 12px; }
.facts td.wide { min-width: 22em; }
.map .months { table-layout: auto; min-width: 0; }
.map .months td { min-width: 4em; white-space: nowrap; }
.map .months th[scope=row] { white-space: nowrap; padding-right: 12px; }
.map .marked { outline: 2px solid var(--ink); outline-offset: -2px; font-weight: 650; }
@media (max-width: 820px) {
  .figures { grid-template-columns: minmax(0, 1fr); gap: 4px; }
  .rows thead { display: none; }
  .rows, .rows tbody { display: block; }
  .rows tr { display: grid; grid-template-columns: minmax(0, 1fr) max-content; gap: 2px 12px; padding: 9px 0;
    border-bottom: 1px solid var(--soft); }
  .rows tr:last-child { border-bottom: 0; }
  .rows td { border: 0; padding: 0; text-align: left; white-space: normal; }
  .rows td:nth-child(2n) { text-align: right; }
  .rows td:last-child { grid-column: 1 / -1; min-width: 0; text-align: left; }
  .rows td:nth-child(3) { color: var(--muted); font-size: 12.5px; }
}
</style>
{% macro pill(word) %}<span class="pill {{ word or 'unjudged' }}">{{ word or 'not judged' }}</span>{% endmacro %}
{% macro legend(entries) %}
<div class="legend">{% for colour, name in entries -%}
  <span>{% if colour %}<i style="background:var(--{{ colour }})"></i>{% endif %}{{ name }}</span>
{%- endfor %}</div>
{% endmacro %}
{% macro drawn(one) %}
<section class="card">
  <div class="head"><h2>{{ one.title }}</h2>{{ legend(one.legend) }}</div>
  {% if one.svg %}<div class="scroll">{{ one.svg }}</div>{% endif %}
  {% if one.rows %}<div class="facts">{{ table(one.shape, one.rows) }}</div>{% endif %}
  {% if one.hint %}<p class="hint">{{ one.hint }}</p>{% endif %}
</section>
{% endmacro %}
<main>
<header>
  <h1>{{ title }}</h1>
  <p class="sub">Validation · {{ first }} to {{ last }} · {{ sessions }} sessions · version {{ version }}</p>
</header>
{% if description %}<p class="lede">{{ description }}</p>{% endif %}

<section class="card banner" aria-label="Verdict">{{ pill(verdict) }}<p>{{ reason }}</p></section>

<section class="card">
  <div class="head"><h2>What was judged</h2><p class="sub">{{ judged_note }}</p></div>
  {% if judged %}<table class="rows">
  <thead><tr><th class="left" scope="col">Measure</th><th scope="col">Value</th><th class="left" scope="col">Limits</th>
    <th class="left" scope="col">Verdict</th><th class="left" scope="col">What it says</th></tr></thead>
  <tbody>
  {% for row in judged %}
    <tr><td class="left">{{ row.name }}</td><td class="value">{{ row.value }}</td>
    <td class="left">{{ row.threshold }}</td><td class="left">{{ pill(row.verdict) }}</td>
    <td class="left">{{ row.meaning }}</td></tr>
  {% endfor %}
  </tbody></table>
  {% else %}<p class="none">Nothing.</p>{% endif %}
  {% if rule %}<p class="hint">{{ rule }}</p>{% endif %}
</section>

<section class="card">
  <div class="head"><h2>The doctor's findings</h2><p class="sub">{{ findings_note }}</p></div>
  {% if findings %}<ul class="findings">
  {% for one in findings %}
    <li><div class="name">{{ pill(one.severity) }}<b>{{ one.name }}</b></div>
    <p>{{ one.evidence }}</p><p class="sub">{{ one.remedy }}</p></li>
  {% endfor %}
  </ul>{% else %}<p class="none">Nothing to look at.</p>{% endif %}
</section>

{% for one in cards %}{{ drawn(one) }}{% endfor %}
{% for pair in pairs %}
<div class="pair">{% for one in pair %}{{ drawn(one) }}{% endfor %}</div>
{% endfor %}

{% if map %}
<section class="card map">
  <div class="head"><h2>{{ map.title }}</h2>{{ legend(map.legend) }}</div>
  {{ heat(map.heads, map.rows, "") }}
  <p class="hint">{{ map.hint }}</p>
</section>
{% endif %}

{% if deflated %}
<section class="card">
  <div class="head"><h2>Deflated Sharpe ratio</h2>{{ legend(deflated.legend) }}</div>
  <div class="scroll">{{ deflated.svg }}</div>
  <div class="figures">{% for half in deflated.halves %}{{ definitions(half) }}{% endfor %}</div>
</section>
{% endif %}

{% if missing %}
<section class="card">
  <div class="head"><h2>What was not judged, and why</h2></div>
  {{ definitions(missing) }}
</section>
{% endif %}

{{ closing(lineage, spec, method) }}
</main>
"""
)

PAGE = template("validation", _BODY)
