"""Compile the step path before the first real step needs it."""

from __future__ import annotations

import numpy as np

from hotset.daemon.advice.ghost import Ghost, mix_all
from hotset.daemon.config import PlanRules
from hotset.daemon.planner import Planner, Scorer
from hotset.daemon.room import Room
from hotset.daemon.state import SessionState
from hotset.protos.messages import Geometry, SequenceOpen, Step
from hotset.protos.wire import decode, encode

_GEOMETRY = Geometry(layers=1, kv_heads=1, page_size=1, selected=1, candidates=2, page_bytes=1, slots=2, groups=2)

_ONLY_HEAT = 64
"""bytes in which the tiny sequence finds room for no more"""


def warm_up(scorer: Scorer) -> None:
    """Plan one step of a tiny sequence. Compiled code is cached on disk, so this takes seconds only once."""
    for room in (Room(), Room(limit=_ONLY_HEAT)):
        _step(SessionState(_GEOMETRY, room), scorer)


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
    Planner(PlanRules()).plan(state, scorer, 1)
