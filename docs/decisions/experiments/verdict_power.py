"""How often the verdict is right: seeded panels of trials whose true Sharpe ratio is known, judged by the product.

    python docs/decisions/experiments/verdict_power.py         # the published tables and docs/img/power.png
    python docs/decisions/experiments/verdict_power.py 1       # the panels that the rule was chosen on; no picture

Prints the tables of docs/validation.md and docs/decisions/0012-verdict.md. The strategy is the trial with the best
Sharpe ratio over the whole period, as a researcher would pick it; the matrix of the sweep and the ledger's trials are
the panel.
"""

import math
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.drawing import ACCENT, BENCHMARK, INK, LOSS, MUTED, SERIES, new_figure, percent, plain, to_png
from quant_assets.validation.assessment import Trials, assess
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.sharpe import sharpes
from quant_assets.validation.verdict import Judgement, Row, Thresholds, judged, overall

PANELS = 200
YEAR, RISK = 252, 0.01
PUBLISHED = 2
"""The seed of panel i is (2, i); (1, i) is that of the panels on which the rule was chosen."""
PICTURE = Path(__file__).parents[2] / "img" / "power.png"
PLAN = ValidationPlan(resamples=100)
LIMITS = Thresholds()

ORDER: tuple[Judgement, ...] = ("pass", "caution", "fail")
TABLE = ("degradation", "sharpe", "consistency", "pbo", "deflated_sharpe", "deflated_probability")


@dataclass(frozen=True)
class Scenario:
    """One strategy with the true annual Sharpe ratio `true` among trials without any."""

    true: float = 0.0
    trials: int = 100
    sessions: int = 2520
    kind: str = "independent"
    """independent | fat (Student's t, 4 degrees of freedom) | factor (correlation 0.5 of any two) | grid (a line of
    cells, neighbours correlated by 0.9; the edge fades over the ten cells on either side)"""
    edge: str = "steady"
    """steady | fading (from twice `true` down to nothing) | gone (twice `true` in the first half, then nothing)"""
    own: bool = False
    """The strategy is the planted trial, whether it looks best or not."""
    alone: bool = False
    """The trials are counted, their returns are not known: no PBO, nothing to choose from."""


def panel(scenario: Scenario, seed: tuple[int, int]) -> NDArray[np.float64]:
    """(trials, sessions) of returns, the strategy first."""
    random = np.random.default_rng(seed)
    shape = scenario.trials, scenario.sessions
    returns = random.standard_t(4, shape) / math.sqrt(2) if scenario.kind == "fat" else random.standard_normal(shape)
    planted, edges = scenario.trials // 2, np.zeros(scenario.trials)
    edges[planted] = 1.0
    if scenario.kind == "factor":
        returns = (returns + random.standard_normal(scenario.sessions)) / math.sqrt(2)
    elif scenario.kind == "grid":
        for cell in range(1, scenario.trials):
            returns[cell] = 0.9 * returns[cell - 1] + math.sqrt(1 - 0.9**2) * returns[cell]
        edges = np.maximum(1 - np.abs(np.arange(scenario.trials) - planted) / 10, 0)
    time = np.linspace(0, 1, scenario.sessions)
    course = {"steady": np.ones_like(time), "fading": 2 * (1 - time), "gone": 2.0 * (time < 0.5)}[scenario.edge]
    returns = RISK * (returns + edges[:, None] * course * scenario.true / math.sqrt(YEAR))
    strategy = planted if scenario.own else int(np.argmax(sharpes(returns, YEAR)))
    return np.concatenate([returns[[strategy]], np.delete(returns, strategy, axis=0)])


def look(scenario: Scenario, seed: tuple[int, int]) -> dict[str, Judgement | None]:
    """The verdict of each row, of rows read otherwise, and of each rule."""
    returns = panel(scenario, seed)
    first_day = np.datetime64("2015-01-01")
    days = first_day + np.floor(np.arange(scenario.sessions) * 365.25 / YEAR).astype("timedelta64[D]")
    known = returns[:1] if scenario.alone else returns
    trials = Trials(len(returns), sharpes(returns, YEAR), known)
    found = assess(known, days, YEAR, trials, PLAN, LIMITS)
    if not (found.verdict and found.in_out and found.combinatorial and found.deflated):
        raise SystemExit(f"{scenario}: {found.missing}")
    rows = {row.measure: row for row in found.rows}
    others = {
        "degradation as written": ("degradation", found.in_out.written_degradation, LIMITS.degradation),
        "median CPCV path": ("median", float(np.median(found.combinatorial.sharpes)), LIMITS.wfa_sharpe),
        "effective ratio": ("deflated_sharpe", found.deflated.effective_ratio, LIMITS.deflated_sharpe),
        "effective probability": (
            "deflated_probability",
            found.deflated.effective_probability,
            LIMITS.deflated_probability,
        ),
    }
    rows |= {name: judged("other", measure, value, limits) for name, (measure, value, limits) in others.items()}
    return {name: row.verdict for name, row in rows.items()} | {name: rule(rows) for name, rule in RULES.items()}


def counted(rows: Mapping[str, Row], fails: int, cautions: int) -> Judgement:
    """By number of rows alone, the deflated Sharpe ratio's being one."""
    verdicts = [rows[name].verdict for name in TABLE[:5]]
    if verdicts.count("fail") >= fails:
        return "fail"
    return "pass" if "fail" not in verdicts and verdicts.count("caution") <= cautions else "caution"


def alone(rows: Mapping[str, Row], name: str) -> Judgement:
    """By one row."""
    return rows[name].verdict or "caution"


def chosen(rows: Mapping[str, Row], **instead: str) -> Judgement:
    """By the product's rule, with rows read otherwise."""
    return overall([rows[instead.get(name, name)] for name in TABLE])


def lenient(rows: Mapping[str, Row]) -> Judgement:
    """By the product's rule, whatever IS/OOS says."""
    kept = judged("is_oos", "degradation", 0.0, LIMITS.degradation)
    return chosen({**rows, "degradation": kept})


def strict(rows: Mapping[str, Row]) -> Judgement:
    """By the product's rule, where any failed row takes a pass away."""
    verdict = chosen(rows)
    return "caution" if verdict == "pass" and "fail" in [rows[name].verdict for name in TABLE] else verdict


RULES: dict[str, Callable[[Mapping[str, Row]], Judgement]] = {
    "any failed row fails, five passed rows pass": partial(counted, fails=1, cautions=0),
    "three failed rows fail, none and one caution pass": partial(counted, fails=3, cautions=1),
    "PBO alone": partial(alone, name="pbo"),
    "deflated ratio alone": partial(alone, name="deflated_sharpe"),
    "deflated probability alone": partial(alone, name="deflated_probability"),
    "**the rule**": chosen,
    "the rule, without IS/OOS": lenient,
    "the rule, no failed row in a pass": strict,
    "the rule, IS/OOS of the strategy as written": partial(chosen, degradation="degradation as written"),
    "the rule, effective number of trials": partial(
        chosen, deflated_sharpe="effective ratio", deflated_probability="effective probability"
    ),
}
RULE, EFFECTIVE = "**the rule**", "the rule, effective number of trials"
NOISE, PLANTED, GONE = Scenario(), Scenario(1.5), Scenario(1.5, edge="gone")
FACTOR, GRID = Scenario(kind="factor"), Scenario(kind="grid")
CURVE = {true: Scenario(true) for true in (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)}
PAIRS = {
    "100 trials over ten years": NOISE,
    "the strategy was not picked": Scenario(own=True),
    "fat tails": Scenario(kind="fat"),
    "a common factor": FACTOR,
    "a grid": GRID,
    "five years": Scenario(sessions=1260),
    "twenty years": Scenario(sessions=5040),
    "20 trials": Scenario(trials=20),
    "500 trials": Scenario(trials=500),
    "one trial": Scenario(trials=1),
    "trials without returns": Scenario(alone=True),
}
DECAYS = {"fading to nothing": Scenario(1.5, edge="fading"), "gone after half the time": GONE}


def planted(scenario: Scenario) -> Scenario:
    return Scenario(**{**vars(scenario), "true": 1.5})


def limit_threads() -> None:
    """One thread of BLAS a process: the panels are what runs side by side."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


class Study:
    """Verdicts by scenario, each looked at once."""

    def __init__(self, seed: int) -> None:
        wanted = [*CURVE.values(), *PAIRS.values(), *map(planted, PAIRS.values()), *DECAYS.values()]
        self.scenarios = list(dict.fromkeys(wanted))
        tasks = [(scenario, (seed, number)) for scenario in self.scenarios for number in range(PANELS)]
        with ProcessPoolExecutor(initializer=limit_threads) as pool:
            looks = list(pool.map(look, *zip(*tasks, strict=True), chunksize=10))
        self.looks = {
            scenario: looks[number * PANELS : (number + 1) * PANELS] for number, scenario in enumerate(self.scenarios)
        }

    def share(self, scenario: Scenario, name: str, *verdicts: Judgement) -> float:
        return float(np.mean([one[name] in verdicts for one in self.looks[scenario]]))

    def percents(self, *shares: tuple[Scenario, str, Judgement]) -> str:
        return " | ".join(f"{100 * self.share(*one):.3g}" for one in shares)


def tables(study: Study) -> None:
    """All shares in percent of the panels."""
    columns: dict[str, tuple[Scenario, Judgement]] = {
        "noise: pass": (NOISE, "pass"),
        "noise: fail": (NOISE, "fail"),
        "planted: pass": (PLANTED, "pass"),
        "planted: fail": (PLANTED, "fail"),
        "common factor, noise: fail": (FACTOR, "fail"),
        "grid, planted: fail": (planted(GRID), "fail"),
        "gone: pass": (GONE, "pass"),
    }
    readings = [name for name in study.looks[NOISE][0] if name not in RULES]
    for title, names in (("row", readings), ("rule", list(RULES))):
        header(title, *columns)
        for name in names:
            print(f"| {name} |", study.percents(*[(one, name, verdict) for one, verdict in columns.values()]), "|")

    def by(rule: str, *scenarios: Scenario) -> str:
        return study.percents(*[(one, rule, verdict) for one in scenarios for verdict in ORDER])

    for rule, number in ((RULE, "true"), (EFFECTIVE, "effective")):
        sides = [f"{side}: {verdict}" for side in ("noise", "planted") for verdict in ORDER]
        header(f"panels, {number} number of trials", *sides)
        for name, pair in PAIRS.items():
            print(f"| {name} |", by(rule, pair, planted(pair)), "|")
        for name, scenario in DECAYS.items():
            print(f"| {name} | | | |", by(rule, scenario), "|")
    header("true Sharpe ratio", *ORDER)
    for true, scenario in CURVE.items():
        print(f"| {true:g} |", by(RULE, scenario), "|")


def header(*names: str) -> None:
    print(f"\n| {' | '.join(names)} |\n{'|---' * len(names)}|")


def picture(study: Study) -> bytes:
    """The operating curve, and beside it the share of panels that each row passes."""
    figure = new_figure(9.6, 3.7)
    whole, rows = figure.subplots(1, 2, width_ratios=[1, 1.25])
    figure.subplots_adjust(left=0.055, right=0.785, top=0.88, bottom=0.14, wspace=0.16)
    trues = list(CURVE)
    shares = [[study.share(one, RULE, verdict) for one in CURVE.values()] for verdict in ORDER]
    whole.stackplot(trues, shares, colors=[ACCENT, BENCHMARK, LOSS], alpha=0.85, linewidth=0)
    for text, x, y, angle in (("fail", 0.5, 0.6, 0), ("caution", 1.42, 0.62, 62), ("pass", 2.4, 0.4, 0)):
        whole.text(
            x, y, text, ha="center", va="center", rotation=angle, color="#ffffff", fontsize=10, fontweight="bold"
        )
    whole.set_title("Overall verdict", loc="left", fontsize=10, color=INK)
    labels = {
        "degradation": "IS/OOS degradation",
        "sharpe": "walk-forward Sharpe",
        "consistency": "walk-forward consistency",
        "pbo": "PBO",
        "deflated_sharpe": "deflated ratio",
        "deflated_probability": "deflated probability",
    }
    for number, (name, label) in enumerate(labels.items()):
        colour = SERIES[number]
        passed = [study.share(one, name, "pass") for one in CURVE.values()]
        rows.plot(trues, passed, color=colour, linewidth=1.8)
        figure.text(0.8, 0.83 - 0.075 * number, label, color=colour, fontsize=9, fontweight="bold")
    rows.set_title("Share of panels that pass each row", loc="left", fontsize=10, color=INK)
    for axes in (whole, rows):
        plain(axes)
        axes.set_xlim(0, 3)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(percent)
        axes.set_xlabel("true Sharpe ratio of the planted one", fontsize=9, color=MUTED)
    return to_png(figure, 128)


if __name__ == "__main__":
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else PUBLISHED
    study = Study(seed)
    tables(study)
    if seed == PUBLISHED:
        PICTURE.write_bytes(picture(study))
