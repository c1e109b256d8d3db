"""What each layer loaded, used, wasted and waited for, by cause: sums since the attach, and as of late."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.protos.errors import ProtocolError
from hotset.protos.messages import LayerFigure, Step

Float64 = npt.NDArray[np.float64]

HALF_LIFE = 64
"""steps after which a figure counts half in what is recent"""
FIGURES = len(LayerFigure)
_SETTINGS = (LayerFigure.DISTANCE, LayerFigure.LEAST)
_STEP_KEPT = 0.5 ** (1 / HALF_LIFE)


class LayerTally:
    """Written by the session's thread only; others may read it."""

    def __init__(self, layers: int) -> None:
        self.total: npt.NDArray[np.int64] = np.zeros((FIGURES, layers), np.int64)
        """Sums; of DISTANCE and LEAST, what was last in force."""
        self.recent: Float64 = np.zeros((FIGURES, layers))
        """Averages a step."""
        self.steps = 0
        """That told anything by layer."""

    def observe(self, step: Step) -> None:
        """Take in one step. Raises ProtocolError if it tells of another number of layers."""
        told = step.by_layer[:FIGURES]
        if not len(told):
            return
        if told.shape[1] != self.total.shape[1]:
            raise ProtocolError(f"step {step.epoch} tells of {told.shape[1]} layers, not {self.total.shape[1]}")
        figures = np.zeros_like(self.total)
        figures[: len(told)] = told
        self.total += figures
        for setting in _SETTINGS:
            self.total[setting] = figures[setting]
        self.steps += 1
        kept = min(_STEP_KEPT, 1 - 1 / self.steps)
        self.recent *= kept
        self.recent += (1 - kept) * figures

    def precision(self) -> Float64:
        """[layers] recent prefetches inside the step that were used, over those whose fate is known; NaN: none."""
        used, wasted = self.recent[LayerFigure.STEP_USED], self.recent[LayerFigure.STEP_WASTED]
        return _ratio(used, used + wasted)

    def coverage(self) -> Float64:
        """[layers] recent pages that came by a prefetch inside the step, over those and demand misses; NaN: none."""
        used, demand = self.recent[LayerFigure.STEP_USED], self.recent[LayerFigure.DEMAND_PAGES]
        return _ratio(used, used + demand)

    def overall(self) -> tuple[float | None, float | None]:
        """Precision and coverage over all layers; None where there is nothing to tell."""
        used, wasted, demand = (
            float(self.recent[figure].sum())
            for figure in (LayerFigure.STEP_USED, LayerFigure.STEP_WASTED, LayerFigure.DEMAND_PAGES)
        )
        return _share(used, wasted), _share(used, demand)

    def as_dict(self, page_bytes: int) -> dict[str, Any]:
        """For status.json."""
        sums = {figure: int(self.total[figure].sum()) for figure in LayerFigure}
        return {
            "bytes": {
                "demand": sums[LayerFigure.DEMAND_PAGES] * page_bytes,
                "plan": sums[LayerFigure.PLAN_PAGES] * page_bytes,
                "step": sums[LayerFigure.STEP_PAGES] * page_bytes,
            },
            "stall_seconds": {
                "copy": sums[LayerFigure.COPY_STALL_US] / 1e6,
                "link": sums[LayerFigure.LINK_STALL_US] / 1e6,
            },
            "precision": _listed(self.precision()),
            "coverage": _listed(self.coverage()),
            "distance": self.total[LayerFigure.DISTANCE].tolist(),
            "least": (self.total[LayerFigure.LEAST] / 1e4).tolist(),
        }


def _ratio(part: Float64, whole: Float64) -> Float64:
    ratio: Float64 = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _share(part: float, rest: float) -> float | None:
    return part / (part + rest) if part + rest > 0 else None


def _listed(values: Float64) -> list[float | None]:
    """For JSON, which knows no NaN."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]
