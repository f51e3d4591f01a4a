select
    model_id,
    experiment_id,
    algo as algorithm,
    scope,
    split_part(task_id, '.', 1) as label_name,
    label_version,
    split_part(task_id, '.', 3) as task,
    feature_version,
    train_from as trained_from,
    train_to as trained_to,
    (metrics ->> '$.rows')::bigint as training_rows,
    (metrics ->> '$.holdout.rows')::bigint as holdout_rows,
    (metrics ->> '$.holdout.rank_ic')::double as holdout_rank_ic,
    (metrics ->> '$.holdout.rmse')::double as holdout_rmse,
    (metrics ->> '$.holdout.auc')::double as holdout_auc,
    (metrics ->> '$.holdout.brier')::double as holdout_brier,
    created_at as trained_at
from {{ source('warehouse', 'models') }}
