"""The page of a sweep's report: one Jinja template, filled by `sweep_report`. Everything is escaped on its way in."""

from quant_assets.core import page

PAGE = page.template(
    "sweep",
    page.OPENING
    + page.CLOSING
    + """\
<style>
.heat { border-collapse: separate; border-spacing: 3px; table-layout: fixed; font-size: 12.5px; }
.heat th { border: 0; padding: 4px 6px; text-align: center; }
.heat th[scope=row] { text-align: right; }
.heat td { border: 0; border-radius: 5px; text-align: center; padding: 6px 4px; }
.heat .gain { color: var(--ink); background: rgb(var(--gain-rgb) / var(--a)); }
.heat .loss { color: var(--ink); background: rgb(var(--loss-rgb) / var(--a)); }
</style>
<main>
{% set period = first ~ " to " ~ last ~ " · " ~ sessions ~ " sessions" %}
{{ opening(title, "Parameter sweep · " ~ period ~ " · version " ~ version, description, tiles, caveats) }}

<section class="card">
  <div class="head"><h2>Distribution</h2><p class="sub">Sharpe ratio of every cell</p></div>
  <div class="scroll">{{ distribution_svg }}</div>
</section>

{% for map in maps %}
<section class="card">
  <div class="head"><h2>{{ map.rows }} by {{ map.columns }}</h2>
    <p class="sub">mean Sharpe ratio over all other parameters</p></div>
  <div class="scroll"><table class="heat">
  <thead><tr><th></th>
  {% for name in map.heads %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
  <tbody>
  {% for row in map.lines %}
    <tr><th scope="row">{{ row.name }}</th>
    {% for cell in row.cells %}{% if cell is none %}<td></td>{% else -%}
    <td class="{{ cell.sign }}" style="--a:{{ cell.alpha }}">{{ cell.text }}</td>
    {%- endif %}{% endfor %}</tr>
  {% endfor %}
  </tbody></table></div>
</section>
{% endfor %}

{% for pair in marginals|batch(2) %}
<div class="pair">
{% for one in pair %}
<section class="card">
  <div class="head"><h2>{{ one.name }}</h2><p class="sub">mean, lowest and highest Sharpe ratio</p></div>
  <div class="scroll">{{ one.svg }}</div>
</section>
{% endfor %}
</div>
{% endfor %}

<section class="card">
  <div class="head"><h2>Best cells</h2><p class="sub">{{ top_note }}</p></div>
  <div class="scroll"><table>
  <thead><tr>{% for name in top_heads %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
  <tbody>
  {% for row in top_rows %}<tr>{% for text in row %}<td>{{ text }}</td>{% endfor %}</tr>
  {% endfor %}
  </tbody></table></div>
</section>

{{ closing(lineage, spec, method) }}
</main>
""",
)
