"""Traces for the tests of the predictor: the committed sample, and random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hotset.predictor.trace import SequenceTrace, Trace, read_trace
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


@pytest.fixture(scope="session")
def sample_path() -> Path:
    """The committed sample log."""
    return SAMPLE


@pytest.fixture(scope="session")
def sample() -> Trace:
    """The committed sample log, read."""
    return read_trace(SAMPLE)


@pytest.fixture(scope="session")
def make_trace() -> Callable[..., Trace]:
    """A maker of random traces: `make_trace(seed, sequences=2, steps=10, ...)`."""
    return random_trace


def random_trace(
    seed: int,
    *,
    sequences: int = 2,
    steps: int = 10,
    layers: int = 2,
    kv_heads: int = 2,
    selected: int = 3,
    candidates: int = 6,
    pages: int = 14,
    lookahead: tuple[int, ...] = (),
    full: bool = False,
) -> Trace:
    """Sequences that start at different epochs, with padding, gaps and uneven selections unless `full`."""
    rng = np.random.default_rng(seed)
    meta = TraceMeta(
        model="random",
        layers=layers,
        kv_heads=kv_heads,
        page_size=4,
        selected=selected,
        candidates=candidates,
        page_bytes=512,
    )
    made = [_sequence(rng, s, steps, meta, pages, lookahead, full) for s in range(sequences)]
    prompts = {s.sequence: s.prompt_tokens for s in made}
    return Trace(meta.model_copy(update={"prompt_tokens": prompts}), made)


def _sequence(
    rng: np.random.Generator,
    number: int,
    steps: int,
    meta: TraceMeta,
    pages: int,
    lookahead: tuple[int, ...],
    full: bool,
) -> SequenceTrace:
    lanes, n, k = meta.layers * meta.kv_heads, meta.candidates, meta.selected
    hot = rng.dirichlet(np.full(pages, 0.4), size=lanes) + 1e-3
    ids = np.full((steps, lanes, n), -1, np.int32)
    flags = np.zeros(ids.shape, np.uint8)
    for t in range(steps):
        for lane in range(lanes):
            found = n if full else int(rng.integers(1, n + 1))
            weights = hot[lane] / hot[lane].sum()
            ids[t, lane, :found] = rng.choice(pages, size=found, replace=False, p=weights)
            chosen = min(k, found) if full else int(rng.integers(0 if t else 1, min(k, found) + 1))
            flags[t, lane, :chosen] = int(AccessFlag.SELECTED)
    scores = np.where(ids >= 0, rng.integers(0, 256, ids.shape), 0).astype(np.uint8)
    step = np.arange(steps, dtype=np.int32) if full else np.sort(rng.choice(2 * steps, steps, False)).astype(np.int32)
    prompt = pages * meta.page_size
    ranks = {d: np.stack([[rng.permutation(pages)[:n] for _ in range(lanes)] for _ in range(steps)]) for d in lookahead}
    return SequenceTrace(
        sequence=number,
        prompt_tokens=prompt,
        steps=step,
        lengths=prompt + step + 1,
        epochs=step.astype(np.int64) + 100 + (0 if full else 3 * number),
        pages=ids,
        scores=scores,
        flags=flags,
        lookahead={d: r.astype(np.int32) for d, r in ranks.items()},
    )
