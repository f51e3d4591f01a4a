"""Qlib's Alpha158 of a folder in Qlib's data format: timed as it comes, and once more in double precision.

    .bench/qlib/bin/python docs/decisions/experiments/alpha158_qlib.py FOLDER < /dev/null

Runs in pyqlib's own environment, which bench/alpha158.py makes, writes FOLDER for, and compares with. Writes
`names.txt`, `single.npy` (what `D.features` returns: float32, from float32 storage) and `double.npy` (the same
expressions on the same numbers without a cast to float32 at either end, and with the typical price computed, not read
from float32), each with a row per bar and a column per factor. Prints `ready` and waits for a line before each timed
round, then prints its seconds and setting, so that the bench can take turns.
"""

import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import qlib
from qlib.config import C
from qlib.contrib.data.loader import Alpha158DL
from qlib.data import D
from qlib.data.base import Feature
from qlib.data.cache import H
from qlib.data.data import ExpressionD

SETTINGS = ((1, "threading"), (2, "multiprocessing"), (2, "loky"))
ROUNDS = 2


def main() -> None:
    folder = Path(sys.argv[1])
    qlib.init(provider_uri=str(folder), expression_cache=None, dataset_cache=None, logging_level=40)
    fields, names = Alpha158DL.get_feature_config()
    (folder / "names.txt").write_text("\n".join(names))

    for kernels, backend in SETTINGS * ROUNDS:
        print("ready", flush=True)
        sys.stdin.readline()
        C["kernels"], C["joblib_backend"] = kernels, backend
        H.clear()  # expressions of the round before
        start = perf_counter()
        frame = D.features(D.instruments("all"), fields, freq="day")
        print(f"{perf_counter() - start:.3f} {kernels} {backend}", flush=True)
    np.save(folder / "single.npy", frame.to_numpy())

    stored = Feature._load_internal
    Feature._load_internal = lambda *args: stored(*args).astype(np.float64)
    days = len(D.calendar(freq="day"))
    blocks = []
    for symbol in sorted(D.list_instruments(D.instruments("all"), as_list=True)):
        H.clear()
        columns = []
        for field in fields:
            expression = ExpressionD.get_expression_instance(field.replace("$vwap", "($high+$low+$close)/3"))
            columns.append(expression.load(symbol, 0, days - 1, "day").to_numpy(dtype=np.float64))
        blocks.append(np.stack(columns, axis=1))
    np.save(folder / "double.npy", np.concatenate(blocks))


if __name__ == "__main__":
    main()
