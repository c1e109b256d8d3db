"""How far the rows at work are from the rows that a model learned from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hotset.predictor.model import ModelCard
from hotset.protos.features import FEATURES

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_FLOOR = 1e-3
"""least share of a bin: an empty one must not make the index infinite"""


class FeatureDrift:
    """Population stability index of each feature over a window of rows.

    PSI = sum over bins of (now - then) * ln(now / then), with the bins of the card's quantiles and one for NaN;
    below 0.1 counts as stable, above 0.25 as shifted (Siddiqi, "Credit Risk Scorecards", 2006, ch. 8).
    """

    def __init__(self, card: ModelCard) -> None:
        self._bins = [_bins(card, feature.name) for feature in FEATURES]
        self._counts = [np.zeros(len(expected)) for _, expected in self._bins]
        self.rows = 0

    def add(self, rows: Float32) -> None:
        """Count rows [m, F]."""
        self.rows += len(rows)
        for column, (borders, expected) in enumerate(self._bins):
            if len(expected) > 1:
                value = rows[:, column]
                found = np.where(np.isnan(value), len(borders) + 1, np.searchsorted(borders, value))
                self._counts[column] += np.bincount(found, minlength=len(expected))

    def reset(self) -> None:
        """Begin a new window."""
        self.rows = 0
        for counts in self._counts:
            counts[:] = 0.0

    def indices(self) -> dict[str, float]:
        """PSI by feature, of those that the card describes; empty before the first row."""
        if not self.rows:
            return {}
        return {
            feature.name: _stability(counts / self.rows, expected)
            for feature, (_, expected), counts in zip(FEATURES, self._bins, self._counts, strict=True)
            if len(expected) > 1
        }


def _bins(card: ModelCard, name: str) -> tuple[Float32, Float64]:
    """Borders [b] and expected shares [b + 2]: each bin up to and with its border, the rest, NaN."""
    quantiles = np.array(card.feature_quantiles.get(name, ()), np.float32)
    missing = card.missing.get(name, 0.0)
    if not len(quantiles) and not missing:
        return quantiles, np.empty(0)
    borders, last = np.unique(quantiles[::-1], return_index=True)
    # A discrete value fills several quantiles: its share reaches to the last of them.
    reached = (len(quantiles) - last) / (len(quantiles) + 1.0)
    known = np.diff(np.concatenate([[0.0], reached, [1.0]])) * (1.0 - missing)
    return borders, np.concatenate([known, [missing]])


def _stability(now: Float64, then: Float64) -> float:
    now, then = np.maximum(now, _FLOOR), np.maximum(then, _FLOOR)
    return float(((now - then) * np.log(now / then)).sum())
