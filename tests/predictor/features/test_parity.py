"""The incremental, compiled features equal a plain computation from the whole history."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hotset.predictor.dataset import new_state
from hotset.predictor.trace import SequenceTrace, Trace
from hotset.protos import features as spec
from hotset.protos import heat
from hotset.protos.trace import TraceMeta

NAN = math.nan
SKIPPED = 8
BLOCKS = 8
"""of 64 steps that echoes look back on, the one that is under way included"""


class History:
    """Selections and scores of a sequence up to step t, and every feature by its definition."""

    def __init__(self, sequence: SequenceTrace, meta: TraceMeta, t: int) -> None:
        steps, lanes, _ = sequence.pages.shape
        self.t, self.heads, self.layers = t, meta.kv_heads, meta.layers
        self.newest = (int(sequence.lengths[t]) - 1) // meta.page_size
        self.pages = sequence.page_count
        self.score = np.full((steps, lanes, self.pages), NAN)
        self.used = np.zeros((steps, lanes, self.pages), bool)
        at, lane, candidate = np.nonzero(sequence.pages >= 0)
        page = sequence.pages[at, lane, candidate]
        self.score[at, lane, page] = sequence.scores[at, lane, candidate]
        self.used[at, lane, page] = sequence.selected[at, lane, candidate]
        self._likeness: dict[int, npt.NDArray[Any]] = {}

    def row(self, lane: int, page: int) -> dict[str, float]:
        return self._own(lane, page) | self._place(lane, page) | self._others(lane, page) | self._lane(lane)

    def threshold(self, lane: int, t: int) -> float:
        others = self.score[t, lane][~self.used[t, lane] & ~np.isnan(self.score[t, lane])]
        return float(others.max()) if len(others) else NAN

    def age(self, lane: int, page: int) -> float:
        if not 0 <= page < self.pages:
            return NAN
        uses = np.flatnonzero(self.used[: self.t + 1, lane, page])
        return float(self.t - uses[-1]) if len(uses) else NAN

    def _own(self, lane: int, page: int) -> dict[str, float]:
        t = self.t
        uses = np.flatnonzero(self.used[: t + 1, lane, page])
        scores = self.score[: t + 1, lane, page]
        seen = np.flatnonzero(~np.isnan(scores))
        near = np.setdiff1d(seen, uses)
        gaps = np.diff(uses)[::-1]
        row = {"age": self.age(lane, page), "use_rate": len(uses) / (t + 1), "streak": 0.0}
        row |= {f"gap_{i + 1}": float(gaps[i]) if i < len(gaps) else NAN for i in range(spec.GAPS)}
        while len(uses) and uses[-1] - row["streak"] in uses:
            row["streak"] += 1
        row |= {f"count_{h:g}": float((2.0 ** (-(t - uses) / h)).sum()) for h in spec.HALF_LIVES}
        last = float(scores[seen[-1]]) if len(seen) else NAN
        row |= {"score": float(scores[t]), "last_score": last, "seen_age": float(t - seen[-1]) if len(seen) else NAN}
        row["margin"] = last - self.threshold(lane, t)
        row["trend"] = last - float(scores[seen[-2]]) if len(seen) > 1 else NAN
        for decay in spec.SCORE_DECAYS:
            row[f"score_ema_{decay:g}"] = float(((1 - decay) * decay ** (t - seen) * scores[seen]).sum())
        row["margin_ema"] = sum(
            (1 - heat.DECAY) * heat.DECAY ** (t - s) * self._heat_margin(lane, page, s) for s in seen.tolist()
        )
        row["near_count"] = float((2.0 ** (-(t - near) / spec.NEAR_HALF_LIFE)).sum())
        row["near_age"] = float(t - near[-1]) if len(near) else NAN
        return row

    def _heat_margin(self, lane: int, page: int, s: int) -> float:
        threshold = self.threshold(lane, s)
        margin = max(0.0, heat.FLOOR + float(self.score[s, lane, page]) - (0.0 if math.isnan(threshold) else threshold))
        return max(margin, heat.FLOOR) if self.used[s, lane, page] else margin

    def _place(self, lane: int, page: int) -> dict[str, float]:
        now = np.nan_to_num(self.score[self.t, lane])
        beside = [p for p in range(page - spec.REGION, page + spec.REGION + 1) if 0 <= p < self.pages and p != page]
        return {
            "from_end": float(self.newest - page),
            "position": page / max(self.newest, 1),
            "previous_age": self.age(lane, page - 1),
            "next_age": self.age(lane, page + 1),
            "previous_score": float(now[page - 1]) if page else 0.0,
            "next_score": float(now[page + 1]) if page + 1 < self.pages else 0.0,
            "region": float(self.used[self.t, lane, beside].sum()),
        }

    def _others(self, lane: int, page: int) -> dict[str, float]:
        layer, heads, t = lane // self.heads, self.heads, self.t
        peers = [p for p in range(layer * heads, (layer + 1) * heads) if p != lane]
        now = self.used[t, :, page].reshape(self.layers, heads).sum(1)
        before = self.used[t - 1, :, page].reshape(self.layers, heads).sum(1) if t else np.zeros(self.layers)
        row = {"peers": float(self.used[t, peers, page].mean()) if peers else NAN}
        row["peer_age"] = _least([self.age(p, page) for p in peers])
        best = [
            float(self.score[s, p, page]) - (t - s) for p in peers for s in [self._last_seen(p, page)] if s is not None
        ]
        row["peer_score"] = max(best, default=NAN)
        for i in (1, 2, 3):
            row[f"below_{i}"] = now[layer - i] / heads if layer >= i else NAN
        row["below"] = now[:layer].sum() / (layer * heads) if layer else NAN
        higher = self.layers - 1 - layer
        row["above_1"] = before[layer + 1] / heads if higher else NAN
        row["above"] = before[layer + 1 :].sum() / (higher * heads) if higher else NAN
        near = range(max(0, layer - 2), min(self.layers, layer + 3))
        row["layer_heat"] = sum(self._heat(other, page, t if other <= layer else t - 1) for other in near)
        row["heat"] = sum(self._heat(other, page, t if other <= layer else t - 1) for other in range(self.layers))
        return row | self._echoes(lane, page)

    def _last_seen(self, lane: int, page: int) -> int | None:
        seen = np.flatnonzero(~np.isnan(self.score[: self.t + 1, lane, page]))
        return int(seen[-1]) if len(seen) else None

    def _heat(self, layer: int, page: int, t: int) -> float:
        used = self.used[: t + 1, layer * self.heads : (layer + 1) * self.heads, page].sum(1)
        return float((used * 2.0 ** (-(t - np.arange(t + 1)) / spec.HEAT_HALF_LIFE)).sum())

    def likeness(self, t: int) -> npt.NDArray[Any]:
        """[layers, earlier steps] of step t with each step before it."""
        if t not in self._likeness:
            found = np.zeros((self.layers * self.heads, max(t, 0)))
            for lane in range(len(found)):
                pages = np.flatnonzero(self.used[t, lane])
                weight = np.log((t + 2) / self.used[: t + 1, lane, pages].sum(0))
                told = weight >= 0.2
                if len(pages):
                    found[lane] = (self.used[:t, lane][:, pages] * weight * told).sum(1) / weight.sum()
            self._likeness[t] = found.reshape(self.layers, self.heads, -1).mean(1)
        return self._likeness[t]

    def _echoes(self, lane: int, page: int) -> dict[str, float]:
        layer, t = lane // self.heads, self.t
        reach = np.exp(-np.abs(np.arange(self.layers) - layer) / 1.5)
        reach /= reach.sum()
        now, before = self.likeness(t), self.likeness(t - 1) if t else np.zeros((self.layers, 0))
        like, oldest = [], max(0, (t // 64 - BLOCKS + 1) * 64)
        for s in range(oldest, t - SKIPPED + 1):
            own = float((reach * now[:, s])[: layer + 1].sum())
            like.append(own + (float((reach * before[:, s - 1])[layer + 1 :].sum()) if s > oldest else 0.0))
        if not like:
            return {f"echo_{h}": NAN for h in spec.ECHO_HORIZONS}
        order = np.argsort(-np.array(like), kind="stable")[: spec.ECHOES]
        share = np.array(like)[order] / like[order[0]] if like[order[0]] > 0 else np.ones(len(order))
        order += oldest
        row = {}
        for h in spec.ECHO_HORIZONS:
            used = np.array([self.used[s + 1 : min(s + h, t) + 1, lane, page].any() for s in order])
            votes = share ** (4 if h <= 8 else 2)
            row[f"echo_{h}"] = float((votes * used).sum() / votes.sum())
        return row

    def _lane(self, lane: int) -> dict[str, float]:
        turnover = [self._turnover(lane, s) for s in range(self.t + 1)]
        churn = turnover[0]
        for s, fresh in enumerate(turnover):
            churn = fresh if s <= 1 else spec.CHURN_DECAY * churn + (1 - spec.CHURN_DECAY) * fresh
        threshold, scores = self.threshold(lane, self.t), self.score[self.t, lane]
        lowest = float(np.nanmin(scores)) if not np.isnan(scores).all() else NAN
        return {
            "turnover": turnover[-1],
            "churn": churn,
            "threshold": threshold,
            "spread": threshold - lowest,
            "layer": float(lane // self.heads),
        }

    def _turnover(self, lane: int, t: int) -> float:
        now = self.used[t, lane]
        before = self.used[t - 1, lane] if t else np.zeros(self.pages, bool)
        return float((now & ~before).sum() / now.sum()) if now.any() else 0.0


def _least(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return min(known, default=NAN)


def check(sequence: SequenceTrace, meta: TraceMeta, at: list[int], count: int) -> None:
    state, random = new_state(sequence, meta), np.random.default_rng(0)
    for t in range(max(at) + 1):
        state.observe(int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])
        if t not in at:
            continue
        lanes = random.integers(0, meta.layers * meta.kv_heads, count).astype(np.int32)
        pages = random.integers(0, sequence.page_count, count).astype(np.int32)
        rows, history = state.rows(lanes, pages), History(sequence, meta, t)
        for row, lane, page in zip(rows, lanes.tolist(), pages.tolist(), strict=True):
            wanted = history.row(lane, page)
            assert set(wanted) == {feature.name for feature in spec.FEATURES}
            for feature, value in zip(spec.FEATURES, row.tolist(), strict=True):
                assert value == pytest.approx(wanted[feature.name], rel=1e-4, abs=1e-4, nan_ok=True), (
                    f"{feature.name} of page {page} of lane {lane} at step {t}"
                )


@pytest.mark.parametrize("seed", range(4))
def test_random_history(seed: int, make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(seed, sequences=1, steps=40, layers=4, kv_heads=1 + seed % 3)
    check(trace.sequences[0], trace.meta, [0, 1, 2, 9, 25, 39], 24)


def test_a_history_longer_than_echoes_remember(make_trace: Callable[..., Trace]) -> None:
    """Pages rest for longer than the window, blocks of 64 steps end, and rows are asked for now and then only."""
    trace = make_trace(9, sequences=1, steps=1100, layers=3, selected=9, candidates=12, pages=50, full=True)
    check(trace.sequences[0], trace.meta, [63, 64, 65, 511, 512, 700, 1023, 1024, 1090, 1091], 24)


def test_recorded_history(sample: Trace) -> None:
    sequence = sample.sequences[0]
    check(sequence, sample.meta, [0, 1, len(sequence.steps) - 1], 12)
