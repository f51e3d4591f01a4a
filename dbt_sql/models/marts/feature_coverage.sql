with symbols as (select distinct feature_version, symbol from {{ ref('stg_features') }}),
bars as (
    select symbols.feature_version, count(*) as bars
    from {{ ref('stg_bars') }}
    join symbols using (symbol)
    group by symbols.feature_version
),
features as (
    select
        feature_version,
        feature_name,
        sum(observations)::bigint as observations,
        min(first_session) as first_session,
        max(last_session) as last_session
    from {{ ref('int_feature_months') }}
    group by all
),
newest as (
    select feature_version, feature_name, max(month) as latest_month, arg_max_null(drift, month) as latest_drift
    from {{ ref('feature_drift') }}
    group by all
)
select
    features.feature_version,
    features.feature_name,
    features.first_session,
    features.last_session,
    bars.bars,
    features.observations,
    features.observations / bars.bars as coverage,
    newest.latest_month,
    newest.latest_drift
from features
join bars using (feature_version)
join newest using (feature_version, feature_name)
