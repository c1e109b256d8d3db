"""What scoring one row costs: Booster.predict, the compiled forest and, if it is installed, tl2cgen, side by side.

    python tests/bench/bench_scoring.py [--rows 4096] [--trees 16 32 64] [--leaves 31] [--repeat 200]

One thread. Rows are features of the recorded sample, the forest is trained on them. tl2cgen (with treelite and a C
compiler) is no dependency: install both in a scratch environment to see its column. Prints one JSON object a forest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np

from hotset.predictor import recipe
from hotset.predictor.dataset import new_state
from hotset.predictor.experiments.fit import reuse_rows
from hotset.predictor.forest import Forest
from hotset.predictor.trace import Trace, read_trace

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"
Predict = Callable[[], Any]


def main() -> None:
    """Measure every forest size asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--trees", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--leaves", type=int, default=31)
    parser.add_argument("--repeat", type=int, default=200)
    told = parser.parse_args()
    trace = read_trace(SAMPLE)
    made = reuse_rows(trace, fraction=0.5, seed=0)
    label = recipe.targets(made.target, made.censored)
    rows = np.ascontiguousarray(made.features[: told.rows])
    for trees in told.trees:
        params = recipe.lightgbm_params() | {"num_leaves": told.leaves}
        booster = lgb.train(params, lgb.Dataset(made.features, label), trees)
        print(
            json.dumps({"trees": trees, "leaves": told.leaves, "rows": len(rows)} | measure(booster, rows, told.repeat))
        )
    print(json.dumps(feature_costs(trace, told.rows, told.repeat)))


def measure(booster: lgb.Booster, rows: np.ndarray, repeat: int) -> dict[str, float]:
    """Microseconds a row of each scorer (median and best), and the largest difference from Booster.predict."""
    forest = Forest.from_booster(booster)
    expected = booster.predict(rows, num_threads=1)
    found = {
        "max_difference": float(np.abs(forest.predict(rows) - expected).max()),
        **timed("booster", lambda: booster.predict(rows, num_threads=1), len(rows), repeat),
        **timed("forest", lambda: forest.predict(rows), len(rows), repeat),
    }
    with tempfile.TemporaryDirectory() as folder:
        compiled = tl2cgen_predictor(booster, rows, Path(folder))
        return found | (timed("tl2cgen", compiled, len(rows), repeat) if compiled else {})


def feature_costs(trace: Trace, count: int, repeat: int) -> dict[str, float]:
    """Microseconds to observe a step of all lanes, and to compute the features of a row."""
    sequence = trace.sequences[0]
    state = new_state(sequence, trace.meta)
    spent = []
    for t in range(len(sequence.steps)):
        began = time.perf_counter()
        state.observe(int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])
        spent.append(time.perf_counter() - began)
    lanes, pages = (found[:count].astype(np.int32) for found in np.nonzero(state.memory.last_seen >= 0))
    median = statistics.median(spent[2:])
    lane_count = sequence.pages.shape[1]
    return {"observe_us_a_step": round(median * 1e6, 1), "lanes": lane_count} | timed(
        "features", lambda: state.rows(lanes, pages), len(lanes), repeat
    )


def timed(name: str, run: Predict, rows: int, repeat: int) -> dict[str, float]:
    """Median and least microseconds a row, after a warm-up."""
    run()
    spent = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        spent.append((time.perf_counter() - began) / rows * 1e6)
    return {f"{name}_us": round(statistics.median(spent), 4), f"{name}_best_us": round(min(spent), 4)}


def tl2cgen_predictor(booster: lgb.Booster, rows: np.ndarray, folder: Path) -> Predict | None:
    """A scorer that tl2cgen compiled; None if it is not installed."""
    try:
        import tl2cgen  # type: ignore[import-not-found]
        import treelite  # type: ignore[import-not-found]
    except ImportError:
        return None
    text, library = folder / "model.txt", folder / "model.so"
    booster.save_model(text)
    model = treelite.frontend.load_lightgbm_model(text)
    tl2cgen.export_lib(model, toolchain="gcc", libpath=library, params={"parallel_comp": 4})
    predictor = tl2cgen.Predictor(library, nthread=1)
    matrix = tl2cgen.DMatrix(rows.astype(np.float64))
    return lambda: predictor.predict(matrix)


if __name__ == "__main__":
    main()
