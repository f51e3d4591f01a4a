with settled as (
    select
        models.model_id,
        predictions.score,
        labels.label_value,
        (predictions.score > if(models.task = 'classification', 0.5, 0)) = (labels.label_value > 0) as hit
    from {{ ref('stg_predictions') }} as predictions
    join {{ ref('stg_models') }} as models using (model_id)
    join {{ ref('stg_labels') }} as labels
        on labels.symbol = predictions.symbol and labels.session = predictions.session
        and labels.label_name = models.label_name and labels.label_version = models.label_version
),
-- ties share the mean of their ranks
ranked as (
    select
        *,
        rank() over (partition by model_id order by score)
            + count(*) over (partition by model_id, score) / 2 as score_rank,
        rank() over (partition by model_id order by label_value)
            + count(*) over (partition by model_id, label_value) / 2 as label_rank
    from settled
),
realised as (
    select
        model_id,
        count(*) as settled_predictions,
        avg(hit::int) as hit_rate,
        case
            when var_pop(score_rank) > 0 and var_pop(label_rank) > 0 then round(corr(score_rank, label_rank), 12)
        end as rank_ic
    from ranked
    group by model_id
),
used as (
    select model_id, count(*) as predictions, min(session) as first_session, max(session) as last_session
    from {{ ref('stg_predictions') }}
    group by model_id
)
select
    models.model_id,
    models.experiment_id,
    models.algorithm,
    models.label_name,
    models.task,
    models.scope,
    models.feature_version,
    models.trained_from,
    models.trained_to,
    models.training_rows,
    models.holdout_rank_ic,
    models.holdout_auc,
    used.first_session,
    used.last_session,
    coalesce(used.predictions, 0) as predictions,
    coalesce(realised.settled_predictions, 0) as settled_predictions,
    realised.rank_ic,
    realised.hit_rate
from {{ ref('stg_models') }} as models
left join used using (model_id)
left join realised using (model_id)
