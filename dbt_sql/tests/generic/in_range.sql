{# Values lie from `at_least` to `at_most`, both inclusive, and are finite; nulls are for not_null to refuse. #}
{% test in_range(model, column_name, at_least=none, at_most=none) %}
select {{ column_name }}
from {{ model }}
where not isfinite({{ column_name }}::double)
{%- if at_least is not none %} or {{ column_name }} < {{ at_least }}{% endif %}
{%- if at_most is not none %} or {{ column_name }} > {{ at_most }}{% endif %}
{% endtest %}
