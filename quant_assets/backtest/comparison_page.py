"""The page of a comparison: its main element as a Jinja template, filled by `comparison`."""

from quant_assets.backtest.report_page import HEAT
from quant_assets.core.page import template

_BODY = (
    HEAT
    + """\
<style>
.best { font-weight: 650; color: var(--gain); background: rgb(var(--gain-rgb) / 0.1); }
.heads th { color: var(--ink); font-weight: 650; white-space: normal; overflow-wrap: anywhere; vertical-align: bottom;
  min-width: 7.5em; }
td:last-child, th:last-child { padding-right: 10px; }
.heads i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.group th { text-align: left; padding-top: 16px; }
.plain td:not(.left) { white-space: normal; overflow-wrap: anywhere; }
.months { table-layout: auto; }
.months th[scope=row] { white-space: nowrap; padding-right: 12px; }
.months td { min-width: 4em; }
</style>
{% macro heads(first) %}
  <thead class="heads"><tr><th class="left" scope="col">{{ first }}</th>
  {% for label in labels -%}
    <th scope="col"><i style="background:var(--s{{ loop.index0 }})"></i>{{ label }}</th>
  {%- endfor %}</tr></thead>
{% endmacro %}
<main>
<header>
  <h1>{{ title }}</h1>
  <p class="sub">Comparison · {{ first }} to {{ last }} · {{ sessions }} common sessions</p>
</header>

<section class="card">
  <div class="head"><h2>Equity</h2>
    <div class="legend">{% for label in labels -%}
      <span><i style="background:var(--s{{ loop.index0 }})"></i>{{ label }}</span>
    {%- endfor %}<span>1 on the first common session, logarithmic</span></div></div>
  <div class="scroll">{{ curves_svg }}</div>
</section>

<section class="card">
  <div class="head"><h2>Measures</h2><p class="sub">the best of a line is marked</p></div>
  <div class="scroll"><table>
  {{ heads("") }}
  <tbody>
  {% for group in groups %}
    <tr class="group"><th colspan="{{ labels|length + 1 }}" scope="colgroup">{{ group.name }}</th></tr>
    {% for line in group.lines %}
    <tr><td class="left">{{ line.name }}</td>
    {%- for text, best in line.cells %}<td{% if best %} class="best"{% endif %}>{{ text }}</td>{% endfor %}</tr>
    {% endfor %}
  {% endfor %}
  </tbody></table></div>
</section>

<section class="card">
  <div class="head"><h2>What differs</h2><p class="sub">fields that are not the same in all</p></div>
  {% if differences %}<div class="scroll"><table class="plain">
  {{ heads("") }}
  <tbody>
  {% for name, values in differences %}
    <tr><td class="left">{{ name }}</td>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
  {% endfor %}
  </tbody></table></div>
  {% else %}<p class="none">Nothing that was recorded.</p>{% endif %}
</section>

<section class="card">
  <div class="head"><h2>Correlation</h2><p class="sub">of returns per session, on common sessions</p></div>
  {{ heat(range(1, labels|length + 1), correlations, "") }}
</section>

<section class="card">
  <div class="head"><h2>Runs</h2></div>
  <dl>{% for label, run in runs %}<dt>{{ label }}</dt><dd>{{ run }}</dd>{% endfor %}</dl>
</section>

<p class="hint">Measures over the common sessions are of equity from the first of them on; a year has {{ year }}
sessions and the risk-free rate is zero. Those of trades are what each backtest stored. The best of several backtests is
selected with hindsight. Past results say nothing certain about the future.</p>
</main>
"""
)

PAGE = template("comparison", _BODY)
