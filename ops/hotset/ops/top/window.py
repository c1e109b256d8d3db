"""What happened to one decode process in a short while, summed up from its step messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.protos.messages import AccessFlag, LayerFigure, Step

Counts = npt.NDArray[np.int64]


class Window:
    """Sums over the steps of one interval. `lanes` are those of one sequence, layer-major."""

    def __init__(self, lanes: int) -> None:
        self.steps = self.tokens = self.lost = 0
        self.step_us = self.stall_us = self.moved_bytes = 0
        self.prefetched_hits = 0
        self.selected: Counts = np.zeros(lanes, np.int64)
        self.missed: Counts = np.zeros(lanes, np.int64)
        self.by_layer: Counts = np.zeros((len(LayerFigure), 1), np.int64)
        self.last: Step | None = None

    def add(self, step: Step) -> None:
        """Take in a step."""
        self.steps += 1
        self.tokens += len(step.sequences)
        self.step_us += step.stats.step_us
        self.stall_us += step.stats.stall_us
        self.moved_bytes += step.stats.moved_bytes
        lanes = len(self.selected)
        flags = step.flags.reshape(-1, lanes, step.flags.shape[1]) if step.flags.size else np.zeros((1, lanes, 1), "u1")
        selected, hit = flags & AccessFlag.SELECTED != 0, flags & AccessFlag.HIT != 0
        self.selected += np.count_nonzero(selected, axis=(0, 2))
        self.missed += np.count_nonzero(selected & ~hit, axis=(0, 2))
        self.prefetched_hits += int(np.count_nonzero(flags & AccessFlag.PREFETCHED))
        told = step.by_layer[: len(LayerFigure)]
        if told.size:
            self.by_layer[: len(told), 0] += told.sum(axis=1, dtype=np.int64)
        self.last = step

    def summary(self, seconds: float) -> dict[str, Any]:
        """Rates and shares over an interval of so many seconds; shares are None where nothing happened."""
        selected, missed = int(self.selected.sum()), int(self.missed.sum())
        return {
            "steps": self.steps,
            "steps_per_second": round(self.steps / seconds, 2),
            "tokens_per_second": round(self.tokens / seconds, 2),
            "demand_misses": missed,
            "hit_ratio": round(1 - missed / selected, 4) if selected else None,
            "prefetched_hits": self.prefetched_hits,
            "stall_share": round(self.stall_us / self.step_us, 4) if self.step_us else None,
            "link_gbps": round(self.moved_bytes / seconds / 1e9, 6),
            "lost": self.lost,
            **self._inside(),
        }

    def _inside(self) -> dict[str, Any]:
        """Pages by what brought them, and how prefetches inside the step did; nothing known is 0 or None."""
        count = {figure: int(self.by_layer[figure, 0]) for figure in LayerFigure}
        used, wasted = count[LayerFigure.STEP_USED], count[LayerFigure.STEP_WASTED]
        demand = count[LayerFigure.DEMAND_PAGES]
        return {
            "demand_loads": demand,
            "plan_loads": count[LayerFigure.PLAN_PAGES],
            "step_loads": count[LayerFigure.STEP_PAGES],
            "step_precision": round(used / (used + wasted), 4) if used + wasted else None,
            "step_coverage": round(used / (used + demand), 4) if used + demand else None,
        }
