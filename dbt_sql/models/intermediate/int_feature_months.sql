select
    feature_version,
    feature_name,
    date_trunc('month', session)::date as month,
    count(*) as observations,
    avg(feature_value) as mean,
    var_pop(feature_value) as variance,
    min(session) as first_session,
    max(session) as last_session
from {{ ref('stg_features') }}
group by all
