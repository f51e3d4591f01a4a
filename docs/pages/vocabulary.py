"""The page of what strategy files may name: feature sets, labels, rules, providers."""

from collections.abc import Iterator
from pkgutil import resolve_name

from quant_assets.features import FEATURE_SETS
from quant_assets.labels import LABEL_SETS
from quant_assets.market_data.provider import PROVIDERS, Provider
from quant_assets.signals import RULES

from .markdown import code, codes, docstring, table

INTRODUCTION = """# Vocabulary

The features, labels, rules and providers that a strategy or universe file may name. A set that has been used never
changes: another formula is another version. Time runs in a symbol's own sessions: `close[t-1]` is its last bar before
t. A *lookback* is how many sessions before t a value at t reads.
"""


def page() -> str:
    return "\n\n".join([INTRODUCTION, *_feature_sets(), *_label_sets(), *_rules(), *_providers()])


def _feature_sets() -> Iterator[str]:
    for version, features in FEATURE_SETS.items():
        yield f"## Feature set {version}"
        rows = ((code(one.name), str(one.lookback), _formula(one.formula)) for one in features.features)
        yield table(["Feature", "Lookback", "Value at t"], rows)


def _label_sets() -> Iterator[str]:
    for version, labels in LABEL_SETS.items():
        yield f"## Label set {version}"
        yield "A label of bar t is filed under the session whose close settles it, its horizon later at the latest."
        rows = ((code(one.name), str(one.horizon), str(one.lookback), _formula(one.formula)) for one in labels.labels)
        yield table(["Label", "Horizon", "Lookback", "Value of t"], rows)


def _rules() -> Iterator[str]:
    yield "## Signals that are rules"
    yield "They give an exposure per symbol: the signed share of its part of the money to hold."
    for kind, rule in RULES.items():
        yield f"### {kind}"
        yield docstring(rule.function)


def _providers() -> Iterator[str]:
    yield "## Providers"
    rows = []
    for name, place in PROVIDERS.items():
        provider = resolve_name(f"{Provider.__module__.rpartition('.')[0]}.{place}")
        gives = "yes" if provider.gives_actions else "no"
        rows.append((code(name), gives, codes(sorted(provider.options)), docstring(provider)))
    yield table(["Provider", "Gives splits and dividends", "Options", "What it is"], rows)


def _formula(text: str) -> str:
    """The first paragraph, as code where it is a formula."""
    first = text.strip().split("\n\n")[0].replace("\n", " ")
    return code(first) if "[" in first and ":" not in first and len(first) < 120 else first.replace("*", r"\*")
