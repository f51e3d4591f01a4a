select symbol, ts as session, feature_version, feature_name, feature_value
from {{ source('warehouse', 'features_daily') }}
