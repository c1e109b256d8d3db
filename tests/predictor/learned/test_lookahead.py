"""Features of the second head against a plain computation, and its training rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hotset.predictor.dataset import new_state
from hotset.predictor.lookahead import WIDTH, new_lookahead, use_rows
from hotset.predictor.trace import SequenceTrace, Trace
from hotset.protos.errors import ConfigError
from hotset.protos.features import FEATURES
from hotset.protos.lookahead import LOOKAHEAD_FEATURES, RECALL_DECAY

NAN = float("nan")


def ranks_of(sequence: SequenceTrace, t: int, lane: int) -> dict[int, int]:
    return {int(page): rank for rank, page in enumerate(sequence.lookahead[1][t, lane]) if page >= 0}


def used(sequence: SequenceTrace, t: int, lane: int) -> set[int]:
    return set(sequence.pages[t, lane][sequence.selected[t, lane]].tolist())


def expected(trace: Trace, t: int, lane: int, page: int, churn: float) -> dict[str, float]:
    sequence, heads, k = trace.sequences[0], trace.meta.kv_heads, trace.meta.selected
    layer, now = lane // heads, ranks_of(sequence, t, lane)
    before = ranks_of(sequence, t - 1, lane).get(page, NAN) if t > 1 else NAN
    fresh = [p for p in now if p not in used(sequence, t - 1, lane)]
    first = [p for p, rank in now.items() if rank < k]
    recall = NAN
    for s in range(1, t):
        share = len([p for p, r in ranks_of(sequence, s, lane).items() if r < k and p in used(sequence, s, lane)]) / k
        recall = share if np.isnan(recall) else RECALL_DECAY * recall + (1 - RECALL_DECAY) * share
    turns = 0
    while turns < t and page in ranks_of(sequence, t - turns, lane):
        turns += 1
    news_rank = len([p for p in fresh if now[p] < now[page]])
    return {
        "rank": now[page],
        "rank_before": before,
        "rank_gain": before - now[page],
        "peer_rank": _best(sequence, t, range(layer * heads, layer * heads + heads), page, but=lane),
        "below_rank": _best(sequence, t, range((layer - 1) * heads, layer * heads), page) if layer else NAN,
        "ranked_below": _share(sequence, t, range(max(0, layer - 4) * heads, layer * heads), page, k),
        "ranked_in_all": _share(sequence, t, range(layer * heads), page, k),
        "beside_rank": min((now[p] for p in (page - 1, page + 1) if p in now), default=NAN),
        "recall": recall,
        "news": len([p for p in first if p in fresh]) / k,
        "news_rank": news_rank,
        "news_share": news_rank / (churn * k + 1),
        "turns_ranked": turns,
    }


def _best(sequence: SequenceTrace, t: int, lanes: range, page: int, but: int = -1) -> float:
    ranks = [ranks_of(sequence, t, lane) for lane in lanes if lane != but]
    return min((found[page] for found in ranks if page in found), default=NAN)


def _share(sequence: SequenceTrace, t: int, lanes: range, page: int, k: int) -> float:
    return float(np.mean([ranks_of(sequence, t, lane).get(page, k) < k for lane in lanes])) if len(lanes) else NAN


def test_features_agree_with_their_definition(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(11, sequences=1, steps=8, layers=6, lookahead=(1,))
    sequence, meta = trace.sequences[0], trace.meta
    features, state = new_state(sequence, meta), new_lookahead(sequence.page_count, meta)
    churn_at = [f.name for f in FEATURES].index("churn")
    for t in range(8):
        if t:
            lanes, pages, rows = state.rank(features, sequence.lookahead[1][t])
            np.testing.assert_array_equal(rows[:, : len(FEATURES)], features.rows(lanes, pages))
            for lane, page, row in zip(lanes.tolist(), pages.tolist(), rows, strict=True):
                wanted = expected(trace, t, lane, page, float(row[churn_at]))
                for feature, value in zip(LOOKAHEAD_FEATURES, row[len(FEATURES) :].tolist(), strict=True):
                    assert value == pytest.approx(wanted[feature.name], nan_ok=True, abs=1e-5), feature.name
            state.settle(sequence.pages[t], sequence.selected[t])
        features.observe(int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])


def test_training_rows_tell_what_was_used(sample: Trace) -> None:
    sequence = sample.sequences[0].head(8)
    chunks = list(use_rows(sequence, sample.meta, fraction=1.0, seed=0))
    rows = np.concatenate([chunk.features for chunk in chunks])
    hit = np.concatenate([chunk.used for chunk in chunks])
    assert rows.shape == (len(hit), WIDTH)
    ranked_first = rows[:, len(FEATURES)] < 16
    # The lookahead of a real decode is right more often about its first pages than about its last.
    assert hit[ranked_first].mean() > 0.5 > hit[rows[:, len(FEATURES)] > 100].mean()


def test_no_lookahead_no_rows(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(1, sequences=1)
    assert list(use_rows(trace.sequences[0], trace.meta, fraction=1.0, seed=0)) == []


def test_a_rank_beyond_the_pages_is_refused(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(1, sequences=1)
    sequence, meta = trace.sequences[0], trace.meta
    state, ranks = new_lookahead(5, meta), np.full((sequence.pages.shape[1], 2), 7, np.int32)
    with pytest.raises(ConfigError, match="names page 7"):
        state.rank(new_state(sequence, meta), ranks)
