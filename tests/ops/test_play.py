"""An engine without a model holds no more after a trace was played many times than after once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hotset.ops.play import TracePlayer, geometry_of
from hotset.predictor.trace import SequenceTrace
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta
from hotset.protos.transport import MemoryServer
from hotset.runtime.link import ControlLink

META = TraceMeta(model="tiny", layers=2, kv_heads=1, page_size=4, selected=3, candidates=6, page_bytes=64)
TIMES = 3


def sequence(number: int, begins: int, pages: int, steps: int = 20) -> SequenceTrace:
    rng = np.random.default_rng(number)
    ranked = np.stack([np.stack([rng.permutation(pages)[:6] for _ in range(2)]) for _ in range(steps)])
    flags = np.zeros(ranked.shape, np.uint8)
    flags[..., :3] = AccessFlag.SELECTED
    rows = np.arange(steps, dtype=np.int32)
    return SequenceTrace(
        number, 4 * pages, rows, 4 * pages + 1 + rows, begins + rows.astype(np.int64),
        ranked.astype(np.int32), np.zeros(ranked.shape, np.uint8), flags,
    )  # fmt: skip


TRACES = [sequence(0, 0, 10), sequence(1, 15, 30), sequence(2, 40, 12)]
"""The second overlaps the first, the third nobody; each gains 5 pages."""


@pytest.fixture
def player() -> Iterator[TracePlayer]:
    geometry = geometry_of(META, TRACES, ratio=1.5)
    with ControlLink(model="tiny", geometry=geometry, builtin_policy="lru", transport=MemoryServer()) as link:
        yield TracePlayer(META, TRACES, link, geometry, TIMES)


def test_the_pool_is_for_those_that_decode_at_once() -> None:
    geometry = geometry_of(META, TRACES, ratio=1.5)
    assert geometry.groups == 15 + 35
    assert geometry.slots == 2 * 2 * 4


def test_each_time_is_as_the_first(player: TracePlayer) -> None:
    counts = []
    while player.step():
        player.pool.check_integrity()
        player.engine.tables.check_integrity()
        np.testing.assert_array_equal(player.pool.resident, player.engine.resident)
        counts.append((player.engine.epoch, player.played.accesses, player.played.demand_misses))
    steps = len(counts) // TIMES
    assert steps == 55
    assert [epoch for epoch, _, _ in counts] == [
        t * 60 + e + 1 for t in range(TIMES) for e in (*range(35), *range(40, 60))
    ]
    gained = np.diff(counts, axis=0, prepend=0)[:, 1:].reshape(TIMES, steps, 2)
    np.testing.assert_array_equal(gained[..., 0], np.broadcast_to(gained[0, :, 0], gained.shape[:2]))
    # Among pages of one age the victim is the one of the lowest number, and groups have others each time.
    misses = gained[..., 1].sum(axis=1)
    assert misses[0] > steps
    np.testing.assert_allclose(misses, misses[0], rtol=0.1)


def test_groups_come_back_under_new_generations(player: TracePlayer) -> None:
    while player.step():
        pass
    assert player.engine.tables.generation.max() >= TIMES
    assert not player.pool.resident.any()
