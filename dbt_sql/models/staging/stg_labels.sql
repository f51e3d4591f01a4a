select symbol, ts as session, label_name, label_version, label_value, known_on
from {{ source('warehouse', 'labels') }}
