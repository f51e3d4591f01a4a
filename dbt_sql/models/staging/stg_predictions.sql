select symbol, ts as session, model_id, score, calibrated_score
from {{ source('warehouse', 'predictions') }}
