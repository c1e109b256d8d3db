"""How far the rows at work are from the rows that a model learned from."""

from __future__ import annotations

from collections.abc import Mapping

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
        self._borders = [_borders(card.feature_quantiles, feature.name) for feature in FEATURES]
        self._shares = [np.array(card.feature_shares.get(feature.name, ())) for feature in FEATURES]
        self._counts = [np.zeros(len(borders) + 2) for borders in self._borders]
        self.rows = 0

    def add(self, rows: Float32) -> None:
        """Count rows [m, F]."""
        self.rows += len(rows)
        for column, borders in enumerate(self._borders):
            self._counts[column] += _count(rows[:, column], borders)

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
            feature.name: _stability(counts / self.rows, shares)
            for feature, shares, counts in zip(FEATURES, self._shares, self._counts, strict=True)
            if len(shares) == len(counts)
        }


def feature_shares(rows: Float32, quantiles: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """For `ModelCard.feature_shares`: shares of rows [m, F] in the bins that the card's quantiles make."""
    return {
        feature.name: tuple((_count(rows[:, column], _borders(quantiles, feature.name)) / max(len(rows), 1)).tolist())
        for column, feature in enumerate(FEATURES)
    }


def _borders(quantiles: Mapping[str, tuple[float, ...]], name: str) -> Float32:
    """Distinct borders, rising; a discrete value may fill several quantiles."""
    return np.unique(np.array(quantiles.get(name, ()), np.float32))


def _count(values: Float32, borders: Float32) -> Float64:
    """How many values lie in each bin: up to and with each border, above the last, NaN."""
    found = np.where(np.isnan(values), len(borders) + 1, np.searchsorted(borders, values))
    return np.bincount(found, minlength=len(borders) + 2).astype(np.float64)


def _stability(now: Float64, then: Float64) -> float:
    now, then = np.maximum(now, _FLOOR), np.maximum(then, _FLOOR)
    return float(((now - then) * np.log(now / then)).sum())
