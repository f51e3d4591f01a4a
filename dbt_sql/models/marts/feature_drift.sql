with before as (
    select
        *,
        sum(observations) over earlier as earlier_observations,
        sum(observations * mean) over earlier / sum(observations) over earlier as earlier_mean,
        sum(observations * (variance + mean * mean)) over earlier / sum(observations) over earlier as earlier_square
    from {{ ref('int_feature_months') }}
    window earlier as (
        partition by feature_version, feature_name order by month
        rows between unbounded preceding and 1 preceding
    )
),
spread as (
    select *, sqrt(greatest(earlier_square - earlier_mean * earlier_mean, 0)) as earlier_deviation from before
)
select
    feature_version,
    feature_name,
    month,
    observations,
    mean,
    sqrt(variance) as deviation,
    earlier_mean,
    earlier_deviation,
    case when earlier_deviation > 0 then (mean - earlier_mean) / earlier_deviation end as drift
from spread
