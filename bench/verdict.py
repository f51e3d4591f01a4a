"""The whole verdict of a rule strategy with a 500-cell grid, by its parts: `quant validate` on 8 symbols x 10 years.

Run with `python bench/verdict.py`. A home of its own gets made bars, a TSMOM strategy and its backtest; then `quant
validate` runs as a user runs it, in a fresh process each time. The parts are those that the run itself prints.
The ratio is what is not the sweep over the sweep.
"""

import re
import sys
import tempfile
from pathlib import Path

from common import load, process, report, temporary_home

ROUNDS = 3
UNIVERSE = """name: made
version: 1.0.0
calendar: XNYS
provider: synthetic
start: 2008-01-02
end: 2019-12-31
symbols: [{symbols}]
"""
STRATEGY = """strategy_id: trend
version: 1.0.0
universe: made
signal: {{type: tsmom, inputs: {{lookback: 60}}}}
rebalance: {{frequency: weekly}}
portfolio: {{weighting: equal, short: full}}
supervisor: {{max_weight_per_symbol: 0.5, max_positions: 8, turnover_cap: null}}
backtest: {{from: 2010-01-04, to: 2019-12-31}}
sweep:
  parameters:
    signal.inputs.lookback: {{low: 10, high: 250, step: 10}}
    signal.inputs.vol_window: [20, 40, 60, 80, 100]
    signal.inputs.vol_target: [0.1, 0.2, 0.3, 0.4]
"""


def main() -> None:
    with temporary_home() as home, tempfile.TemporaryDirectory() as folder:
        strategies = Path(folder)
        (strategies / "universes").mkdir()
        symbols = ", ".join(f"SYN{number:04d}" for number in range(8))
        (strategies / "universes" / "made.yaml").write_text(UNIVERSE.format(symbols=symbols))
        (strategies / "trend.yaml").write_text(STRATEGY.format())
        environment = {**home, "QUANT_STRATEGIES_DIR": folder, "QUANT_MARKET": "made"}
        quant = [sys.executable, "-m", "quant_assets.cli.app"]
        process([*quant, "pipeline", "run"], environment)
        for number in range(ROUNDS):
            done = process([*quant, "validate", "--strategy", "trend"], environment)
            (told,) = re.findall(r"trend: \w+ \((reading .*?)\)", done.output)
            parts = {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+) s", told)}
            own = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
            print(f"run {number + 1}: {own}; together {sum(parts.values()):.2f} s, process {done.wall:.1f} s, {load()}")
        rest = sum(parts.values()) - parts["sweep"]
        report("verdict_500_cells_without_sweep_over_sweep", rest / parts["sweep"], "none")


if __name__ == "__main__":
    main()
