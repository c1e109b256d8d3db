"""Compile the step path before the first real step needs it."""

from __future__ import annotations

import numpy as np

from hotset.daemon.advice.ghost import Ghost, mix_all
from hotset.daemon.config import PlanRules
from hotset.daemon.ingest import count_uses
from hotset.daemon.planner import Planner, Scorer
from hotset.daemon.room import Room
from hotset.daemon.state import SessionState
from hotset.predictor.dataset import choose
from hotset.predictor.features import FeatureState
from hotset.predictor.guard.ghost import GhostPool
from hotset.protos.messages import Geometry, SequenceOpen, Step
from hotset.protos.wire import decode, encode

_GEOMETRY = Geometry(layers=1, kv_heads=1, page_size=1, selected=1, candidates=2, page_bytes=1, slots=2, groups=2)

_ONLY_HEAT = 64
"""bytes in which the tiny sequence finds room for no more"""


def warm_up(scorer: Scorer) -> None:
    """Plan one step of a tiny sequence, and what a learned model would need, whether or not there is one yet.

    Compiled code is cached on disk, so this takes seconds only once.
    """
    for room in (Room(), Room(limit=_ONLY_HEAT)):
        _step(SessionState(_GEOMETRY, room), scorer)
    _learned()


def _step(state: SessionState, scorer: Scorer) -> None:
    groups = np.arange(2, dtype="<i4")
    state.open(SequenceOpen(sequence=0, prompt_tokens=2, groups=groups, generations=np.zeros(2, "<u4")))
    empty = np.zeros(0, "<i4")
    step = Step(
        epoch=1, sequences=[0], lengths=np.array([2], "<i4"), sequence_steps=np.zeros(1, "<i4"),
        candidates=groups.reshape(1, 2), scores=np.zeros((1, 2), "|u1"), flags=np.ones((1, 2), "|u1"),
        new_sequence=np.zeros(0, "<i8"), new_group=empty, new_generation=np.zeros(0, "<u4"),
        loaded=groups[:1], evicted=empty,
    )  # fmt: skip
    # Arrays from the wire are read-only, for which other code is compiled than for writable ones.
    _, decoded = decode(encode(step, 1))
    assert isinstance(decoded, Step)
    state.step(decoded)
    ghost = Ghost(1, 2, pages=64, cells=1024, half_life=256, warm_steps=0)
    for _ in range(257):
        # Times run out after 256 uses, which compiles the compaction as well.
        ghost.observe(decoded, state)
    mix_all(np.zeros(1, np.int64))
    # Flags are read-only as well; those of some of a step's sequences are copies.
    count_uses(decoded.flags)
    count_uses(step.flags.copy())
    Planner(PlanRules()).plan(state, scorer, 1)


def _learned() -> None:
    """The rows of a model, and its guard's ghosts. The model itself warms up when it is loaded."""
    # Two lanes of two pages: of one alone, what strides over records would pass for contiguous, and compile as that.
    features, pool = FeatureState(layers=1, kv_heads=2, page_size=1, selected=1, pages=2), GhostPool(2, 1, 2)
    page, pages, selected = np.zeros(1, np.int32), np.zeros((2, 1), np.int32), np.ones((2, 1), np.bool_)
    features.observe(1, pages, np.zeros((2, 1), np.uint8), selected)
    features.rows(page, page)
    choose(features, 1.0, np.random.default_rng(0))
    pool.serve(pages, selected, *pool.victims(pages, selected), features.margin_average(page, page))
