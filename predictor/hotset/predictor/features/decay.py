"""Powers of decay factors, looked up: exponentiation would dominate the cost of a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.protos import heat
from hotset.protos.features import HALF_LIVES, HEAT_HALF_LIFE, NEAR_HALF_LIFE, SCORE_DECAYS

Float32 = npt.NDArray[np.float32]
_LONGEST = 4096
"""steps after which a decay counts as complete; 2**-32 for the longest half-life"""


def _table(factors: Sequence[float]) -> Float32:
    powers: Float32 = (np.array(factors)[None, :] ** np.arange(_LONGEST)[:, None]).astype(np.float32)
    return powers


COUNT_DECAYS = _table([2.0 ** (-1.0 / half_life) for half_life in HALF_LIVES])
"""[steps, half-lives]"""
AVERAGE_DECAYS = _table(SCORE_DECAYS)
"""[steps, decays]"""
MARGIN_DECAYS = _table([heat.DECAY])
"""[steps, 1]"""
NEAR_DECAYS = _table([2.0 ** (-1.0 / NEAR_HALF_LIFE)])
"""[steps, 1]"""
HEAT_DECAYS = _table([2.0 ** (-1.0 / HEAT_HALF_LIFE)])
"""[steps, 1]"""


@njit(cache=True, nogil=True, inline="always")
def after(table: Float32, steps: int, column: int) -> np.float32:
    """What is left of 1 after `steps`."""
    return table[steps, column] if steps < _LONGEST else np.float32(0.0)
