"""The page of a backtest's report: its main element as a Jinja template, filled by `report`."""

from quant_assets.core.page import CLOSING, OPENING, TABLE, template

HEAT = """\
{% macro heat(heads, rows, last) %}
  <div class="scroll"><table class="months">
  <thead><tr><th></th>{% for head in heads %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead>
  <tbody>
  {% for row in rows %}
    <tr><th scope="row">{{ row.name }}</th>
    {% for cell in row.cells %}{% if cell is none %}<td></td>{% else -%}
    <td class="{{ cell.sign }}{{ last if loop.last }}" style="--a:{{ cell.alpha }}">{{ cell.text }}</td>
    {%- endif %}{% endfor %}</tr>
  {% endfor %}
  </tbody></table></div>
{% endmacro %}
"""
"""Jinja macro: a heat map with `heads` above and `rows` of cells made by `report.shade`, the last of class `last`."""

_BODY = (
    OPENING
    + CLOSING
    + TABLE
    + HEAT
    + """\
<style>
.measures { gap: 0 40px; }
.measures table { margin-bottom: 14px; }
.measures th:first-child { color: var(--ink); font-weight: 650; }
.measures td:not(:first-child), .measures th:not(:first-child) { width: 6.5em; }
</style>
{% macro picture(title, note, svg, missing) %}
<section class="card">
  <div class="head"><h2>{{ title }}</h2><p class="sub">{{ note }}</p></div>
  {% if svg %}<div class="scroll">{{ svg }}</div>{% else %}<p class="none">{{ missing }}</p>{% endif %}
</section>
{% endmacro %}
<main>
{% set period = summary.from_ts ~ " to " ~ summary.to_ts ~ " · " ~ sessions ~ " sessions" %}
{{ opening(title, "Backtest · " ~ period ~ " · version " ~ summary.version, description, tiles, caveats) }}

<section class="card">
  <div class="head"><h2>Equity</h2>
    <div class="legend"><span><i style="background:var(--accent)"></i>{{ title }}</span>
    {% if benchmark %}<span><i style="background:var(--bench)"></i>{{ benchmark }}</span>{% endif %}
    {% if shaded %}<span><i style="background:var(--loss);opacity:.35"></i>{{ shaded }}</span>{% endif %}
    <span>logarithmic</span></div></div>
  <div class="scroll">{{ equity_svg }}</div>
</section>

<div class="pair">
{{ picture("Drawdown", both, drawdown_svg, "") }}
{{ picture("Rolling Sharpe ratio", window_note, sharpe_svg, too_short) }}
</div>

<section class="card">
  <div class="head"><h2>Monthly returns</h2><p class="sub">in per cent, after costs</p></div>
  {{ heat(months, years, " total") }}
</section>

<div class="pair">
{{ picture("Yearly returns", both, yearly_svg, "") }}
{{ picture("Distribution of monthly returns", distribution_note, distribution_svg, "") }}
</div>

<div class="pair">
{{ picture("Rolling volatility", window_note, volatility_svg, too_short) }}
{{ picture("Rolling beta", window_note, beta_svg, "There is no benchmark." if not benchmark else too_short) }}
</div>

<section class="card">
  <div class="head"><h2>Measures</h2><p class="sub">after costs; those per year are of mean equity</p></div>
  <div class="pair measures">
  {% for half in measure_tables %}
    <div>{% for one in half %}{{ table(one.shape, one.rows) }}{% endfor %}</div>
  {% endfor %}
  </div>
</section>

<section class="card">
  <div class="head"><h2>Returns by period</h2><p class="sub">quantiles over calendar periods</p></div>
  {{ table(period_shape, period_rows) }}
</section>

<section class="card">
  <div class="head"><h2>Weights</h2>
    <div class="legend">{% for name in weight_names -%}
      <span><i style="background:var(--s{{ name.colour }})"></i>{{ name.text }}</span>
    {%- endfor %}</div></div>
  {% if weight_names %}<div class="scroll">{{ weights_svg }}</div>
  {% else %}<p class="none">Nothing was held.</p>{% endif %}
</section>

<div class="pair">
{{ picture("Exposure", "long, short and net, of equity", exposure_svg, "") }}
{{ picture("Turnover", "one-way, of equity, per month", turnover_svg, "") }}
</div>

<section class="card">
  <div class="head"><h2>Symbols</h2><p class="sub">{{ symbols_note }}</p></div>
  {% if symbol_rows %}{{ table(symbol_shape, symbol_rows) }}
  {% else %}<p class="none">No symbol was traded.</p>{% endif %}
</section>

{% if correlation_rows %}
<section class="card">
  <div class="head"><h2>Correlation</h2><p class="sub">{{ correlation_note }}</p></div>
  {{ heat(correlation_heads, correlation_rows, "") }}
</section>
{% endif %}

<div class="pair">
<section class="card">
  <div class="head"><h2>Costs</h2><p class="sub">already paid in every figure</p></div>
  {{ table(cost_shape, cost_rows) }}
</section>
<section class="card">
  <div class="head"><h2>Trades</h2></div>
  {{ definitions(trades) }}
</section>
</div>

<section class="card">
  <div class="head"><h2>Worst drawdowns</h2></div>
  {% if drawdown_rows %}{{ table(drawdown_shape, drawdown_rows) }}
  {% else %}<p class="none">Equity never fell below a peak.</p>{% endif %}
</section>

<section class="card">
  <div class="head"><h2>Largest trades</h2><p class="sub">{{ trades_note }}</p></div>
  {% if trade_rows %}{{ table(trade_shape, trade_rows) }}{% else %}<p class="none">There was no trade.</p>{% endif %}
</section>

{{ closing(lineage, spec, method) }}
</main>
"""
)

PAGE = template("backtest", _BODY)
