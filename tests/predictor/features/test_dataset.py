"""Labels and training rows of recorded sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hotset.predictor.dataset import new_state, sequence_rows
from hotset.predictor.features import FeatureState
from hotset.predictor.labels import NO_USE, advance, log_steps, next_uses
from hotset.predictor.trace import Trace
from hotset.protos.errors import ConfigError
from hotset.protos.features import FEATURES


def test_labels_agree_with_a_search_through_the_future(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(5, sequences=1, steps=20)
    sequence = trace.sequences[0]
    used = np.zeros((20, sequence.pages.shape[1], sequence.page_count), bool)
    at, lane, candidate = np.nonzero(sequence.selected)
    used[at, lane, sequence.pages[at, lane, candidate]] = True
    upcoming, following = next_uses(sequence)
    for t in range(20):
        advance(upcoming, sequence.pages[t], sequence.selected[t], following[t])
        later = used[t + 1 :].any(axis=0)
        first = sequence.steps[np.minimum(t + 1 + used[t + 1 :].argmax(axis=0), 19)] if t < 19 else upcoming
        np.testing.assert_array_equal(upcoming, np.where(later, first, NO_USE))


def test_censored_labels_are_lower_bounds() -> None:
    target, censored = log_steps(np.array([11, 18, NO_USE], np.int32), 10, 25)
    assert target.tolist() == [0.0, 3.0, 4.0]
    assert censored.tolist() == [False, False, True]


def test_rows_are_what_the_state_says(sample: Trace) -> None:
    """A row of the data set is the row that a daemon would compute for that page after that step."""
    sequence = sample.sequences[0].head(12)
    rows = next(iter(sequence_rows(sequence, sample.meta, fraction=1.0, seed=0)))
    state, seen = new_state(sequence, sample.meta), set()
    for t in range(11):
        state.observe(int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])
        lanes, pages = np.nonzero(state.memory.last_seen >= 0)
        found = state.rows(lanes.astype(np.int32), pages.astype(np.int32))
        seen |= {row.tobytes() for row in found}
    assert rows.features.shape[1] == len(FEATURES)
    assert all(row.tobytes() in seen for row in rows.features)


def test_number_of_rows_follows_the_fraction(sample: Trace) -> None:
    sequence = sample.sequences[0]
    for fraction in (0.02, 0.2):
        chunks = list(sequence_rows(sequence, sample.meta, fraction=fraction, seed=3))
        count = sum(len(chunk.target) for chunk in chunks)
        assert count == pytest.approx(fraction * sequence.pages.size, rel=0.1)
        assert all(len(c.features) == len(c.target) == len(c.censored) == len(c.lane) for c in chunks)


def test_same_seed_same_rows(sample: Trace) -> None:
    sequence = sample.sequences[0].head(20)
    first, again, other = (
        next(iter(sequence_rows(sequence, sample.meta, fraction=0.1, seed=seed))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.features, again.features)
    assert len(first.target) != len(other.target) or not np.array_equal(first.features, other.features)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_impossible_fractions(sample: Trace, fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        next(iter(sequence_rows(sample.sequences[0], sample.meta, fraction=fraction, seed=0)))


def test_state_grows_and_refuses_nonsense() -> None:
    state = FeatureState(layers=1, kv_heads=1, page_size=4, selected=1, pages=1)
    scores, selected = np.array([[9, 5]], np.uint8), np.array([[True, False]])
    state.observe(4000, np.array([[999, 3]], np.int32), scores, selected)
    rows = state.rows(np.array([0, 0], np.int32), np.array([999, 5000], np.int32))
    assert rows[0, 0] == 0.0
    assert np.isnan(rows[1, 0])
    assert state.rows(np.empty(0, np.int32), np.empty(0, np.int32)).shape == (0, len(FEATURES))
    with pytest.raises(ConfigError):
        state.rows(np.array([1], np.int32), np.array([0], np.int32))
    with pytest.raises(ConfigError):
        state.observe(8, np.array([[1, 2]], np.int32), scores[:, :1], selected)
    with pytest.raises(ConfigError):
        FeatureState(layers=0, kv_heads=1, page_size=4, selected=1, pages=1)


def test_growth_changes_no_feature(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(7, sequences=1, steps=30)
    sequence, meta = trace.sequences[0], trace.meta
    roomy = new_state(sequence, meta)
    tight = FeatureState(layers=meta.layers, kv_heads=meta.kv_heads, page_size=4, selected=3, pages=1)
    for t in range(30):
        for state in (roomy, tight):
            state.observe(int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])
    lanes, pages = (a.ravel().astype(np.int32) for a in np.indices((4, sequence.page_count)))
    np.testing.assert_array_equal(roomy.rows(lanes, pages), tight.rows(lanes, pages))
