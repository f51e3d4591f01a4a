"""How the lab is started: Streamlit's command line, in the colours of the reports. Itself imports no Streamlit."""

import sys
from pathlib import Path

from quant_assets.core.drawing import ACCENT, GRID, INK, SERIES
from quant_assets.core.page import DARK

APP = Path(__file__).with_name("app.py")
_SHARED = {
    "chartCategoricalColors": list(SERIES),
    "baseRadius": "0.6rem",
    "buttonRadius": "0.6rem",
    "paddingTop": "3rem",
}
_LIGHT = {
    "primaryColor": ACCENT,
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f5f7fa",
    "textColor": INK,
    "borderColor": GRID,
}
_DARK = {
    "primaryColor": DARK["accent"],
    "backgroundColor": "#0b1120",
    "secondaryBackgroundColor": "#131c2e",
    "textColor": DARK["ink"],
    "borderColor": DARK["grid"],
}


def command(host: str, port: int) -> list[str]:
    """The command that serves the lab on `host` and `port`."""
    import json

    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": False,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": False,
        "theme.metricValueFontSize": "1.5rem",
        "theme.headingFontWeights": [650, 650, 600],
        "theme.headingFontSizes": ["1.75rem", "1.25rem", "1.05rem"],
        **{f"theme.light.{name}": value for name, value in (_LIGHT | _SHARED).items()},
        **{f"theme.dark.{name}": value for name, value in (_DARK | _SHARED).items()},
    }
    flags = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *flags]
