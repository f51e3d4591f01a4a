"""`python -m quant_assets.strategy.schema` writes the strategy files' JSON schema beside them."""

from quant_assets.core.settings import settings
from quant_assets.strategy.spec import SCHEMA_FILE, schema_text

if __name__ == "__main__":
    (settings().strategies_dir / SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")
