"""The device's columns against the predictor's features of the same name, and what the words can hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hotset.predictor.dataset import new_state
from hotset.predictor.device import DeviceState, new_device_state
from hotset.predictor.trace import SequenceTrace, Trace
from hotset.protos.device_features import (
    BOUNDS,
    DECAY_STEPS,
    DEVICE_FEATURES,
    LAST_STEP,
    LONGEST,
    ONE,
    PAGE_FEATURES,
    decay_tables,
)
from hotset.protos.errors import ConfigError
from hotset.protos.features import FEATURES
from hotset.protos.trace import TraceMeta

COLUMNS = [[feature.name for feature in FEATURES].index(feature.name) for feature in PAGE_FEATURES]


def worst(sequence: SequenceTrace, meta: TraceMeta, every: int) -> dict[str, float]:
    """Largest difference of each column from the same feature, over all pages of all lanes at every so many steps."""
    exact, device = new_state(sequence, meta), new_device_state(sequence, meta)
    lanes = np.arange(meta.layers * meta.kv_heads).repeat(sequence.page_count).astype(np.int32)
    pages = np.tile(np.arange(sequence.page_count), meta.layers * meta.kv_heads).astype(np.int32)
    found = np.zeros(len(PAGE_FEATURES))
    for t in range(len(sequence.steps)):
        step = (int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])
        exact.observe(*step)
        device.observe(*step)
        # The two grow by different shares.
        for mine, theirs in zip(device.memory, (exact.memory.last_used, exact.memory.last_seen), strict=True):
            count = min(mine.shape[1], theirs.shape[1])
            np.testing.assert_array_equal(mine[:, :count], theirs[:, :count])
        if t % every == 0 or t == len(sequence.steps) - 1:
            wanted, rows = exact.rows(lanes, pages)[:, COLUMNS], device.rows(lanes, pages)
            assert np.array_equal(np.isnan(wanted), np.isnan(rows)), "another value is missing"
            found = np.maximum(found, np.nan_to_num(np.abs(wanted - rows)).max(0))
    return dict(zip((feature.name for feature in PAGE_FEATURES), found.tolist(), strict=True))


def check(found: dict[str, float]) -> None:
    for name, error in found.items():
        assert error <= BOUNDS.get(name, 1e-5), f"{name}: off by {error:g}"


@pytest.mark.parametrize("seed", range(3))
def test_random_history(seed: int, make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(seed, sequences=1, steps=300, layers=2, kv_heads=1 + seed)
    check(worst(trace.sequences[0], trace.meta, every=7))


def test_recorded_history(sample: Trace) -> None:
    for sequence in sample.sequences:
        check(worst(sequence, sample.meta, every=5))


def test_bounds_hold_for_the_most_frequent_pages() -> None:
    """A page used at every step, one at every other, and one never: where rounding adds up longest."""
    steps = 2000
    meta = TraceMeta(model="", layers=1, kv_heads=1, page_size=1, selected=2, candidates=3, page_bytes=1)
    pages = np.tile(np.array([0, 1, 2], np.int32), (steps, 1, 1))
    chosen = np.stack([np.ones(steps, bool), np.arange(steps) % 2 == 0, np.zeros(steps, bool)], -1)[:, None]
    scores = np.random.default_rng(0).integers(0, 256, pages.shape).astype(np.uint8)
    sequence = SequenceTrace(
        sequence=0, prompt_tokens=0, steps=np.arange(steps, dtype=np.int32), lengths=np.full(steps, 3, np.int32),
        epochs=np.arange(steps), pages=pages, scores=scores, flags=chosen.astype(np.uint8),
    )  # fmt: skip
    found = worst(sequence, meta, every=1)
    check(found)
    # The bounds say what is reached, not what is safe to say.
    assert all(found[name] > bound / 8 for name, bound in BOUNDS.items() if name != "margin_ema")


def test_words_hold_long_waits() -> None:
    state = DeviceState(layers=1, kv_heads=1, page_size=1, pages=2)
    page, score, used = np.zeros((1, 1), np.int32), np.full((1, 1), 255, np.uint8), np.ones((1, 1), bool)
    zero = np.zeros(1, np.int32)
    state.observe(2, page, score, used)
    state.steps = 100_000
    state.observe(2, page, score, ~used)
    ages = dict(zip((feature.name for feature in PAGE_FEATURES), state.rows(zero, zero)[0], strict=True))
    assert (ages["age"], ages["seen_age"], ages["last_score"]) == (LONGEST, 0, 255)
    state.steps = LAST_STEP - 1
    state.observe(2, page, score, used)
    assert state.memory.last_used[0, 0] == LAST_STEP - 1
    assert state.rows(zero, zero)[0, 1] == LONGEST


def test_tables_and_columns() -> None:
    tables = decay_tables()
    assert tables.shape == (3, DECAY_STEPS)
    assert (tables[:, 0] == ONE).all()
    assert not tables[:, -1].any()
    assert (np.diff(tables) <= 0).all()
    assert len({feature.name for feature in DEVICE_FEATURES}) == len(DEVICE_FEATURES)


def test_wrong_shapes_are_refused() -> None:
    state = DeviceState(layers=1, kv_heads=2, page_size=1, pages=2)
    with pytest.raises(ConfigError, match=r"needs \[2, n\]"):
        state.observe(1, np.zeros((1, 1), np.int32), np.zeros((1, 1), np.uint8), np.ones((1, 1), bool))
