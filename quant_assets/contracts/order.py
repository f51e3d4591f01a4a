"""Whether rows stand in the order of their keys: one pass over neighbours, where sorting or hashing would cost more."""

from collections.abc import Sequence

import polars as pl


def in_order(frame: pl.DataFrame, keys: Sequence[str], *, strictly: bool = False) -> bool:
    """Whether the rows of `frame` ascend by `keys`; `strictly`: and so no two have the same ones.

    A null among the keys counts as out of order.

    Example:
        >>> rows = pl.DataFrame({"symbol": ["A", "A", "B"], "ts": [1, 2, 2]})
        >>> in_order(rows, ["symbol", "ts"], strictly=True), in_order(rows, ["ts", "symbol"])
        (True, True)
    """
    if frame.height < 2:
        return True
    ascends = pl.lit(not strictly)
    for name in reversed(keys):
        before, after = pl.col(name).slice(0, frame.height - 1), pl.col(name).slice(1)
        ascends = (before < after) | ((before == after) & ascends)
    return bool(frame.select(ascends.fill_null(False).all()).item())
