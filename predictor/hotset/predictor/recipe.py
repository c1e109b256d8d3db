"""How the reuse model is trained: what trees are fitted to, and LightGBM's parameters. See docs/experiments.md."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

TREES = 32
CAP = 5.0
"""log2 of the longest time to next use that is told from longer ones"""


def targets(target: Float32, censored: Bool) -> Float32:
    """What the trees are fitted to, [m]: log2 of steps to next use, at most CAP; a censored page counts as CAP."""
    return np.where(censored, np.float32(CAP), np.minimum(target, np.float32(CAP)))


def weights(target: Float32, censored: Bool) -> Float32:
    """How much each row counts, [m]: a page censored within CAP counts by the share of it that was watched."""
    watched = np.minimum(target, np.float32(CAP)) / np.float32(CAP)
    return np.where(censored, watched, np.float32(1.0))


USE_TREES = 64
"""of the second head, which runs on few rows and gains more from more trees"""


DEVICE_TREES = 32
"""of each of the device's heads: what it can evaluate between two layers"""


def use_params(*, seed: int = 0, threads: int = 1) -> dict[str, float | int | str | bool]:
    """Parameters of `lightgbm.train` for the second head (see `hotset.predictor.lookahead`)."""
    return lightgbm_params(seed=seed, threads=threads) | {"objective": "binary", "min_data_in_leaf": 100}


def lightgbm_params(*, seed: int = 0, threads: int = 1) -> dict[str, float | int | str | bool]:
    """Parameters of `lightgbm.train` for the next-use head."""
    return {
        "objective": "regression",
        "num_leaves": 31,
        "learning_rate": 0.15,
        "min_data_in_leaf": 200,
        "max_bin": 127,
        "verbosity": -1,
        "num_threads": threads,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
    }
