"""What a simulated engine says on the wire, as hotset.runtime.events says it of a real one."""

from __future__ import annotations

import numpy as np

from hotset.ops.simulate.inside import Inside
from hotset.ops.simulate.pool import SimPool
from hotset.ops.simulate.tables import Accesses, Playing, Tables
from hotset.protos.messages import SequenceClose, SequenceOpen, Snapshot, Step, StepStats


def sequence_open(pool: SimPool, playing: Playing) -> SequenceOpen:
    """Announce a sequence whose prompt is in."""
    return SequenceOpen(
        sequence=playing.number,
        prompt_tokens=playing.request.prompt_tokens,
        parent=playing.parent,
        groups=np.array(playing.groups, "<i4"),
        generations=pool.s.generation[playing.groups].astype("<u4"),
    )


def sequence_close(playing: Playing) -> SequenceClose:
    """Announce the end of a sequence."""
    return SequenceClose(sequence=playing.number, tokens=playing.length, reason="length")


def step_message(
    tables: Tables, batch: list[Playing], done: Accesses, epoch: int, stats: StepStats, inside: Inside
) -> Step:
    """Everything that a step accessed; takes the changes logged since the last step message."""
    new, tables.new_groups = tables.new_groups, []
    loaded, evicted = tables.pool.drain_changes()
    n = done.pages.shape[2]
    return Step(
        epoch=epoch,
        sequences=[p.number for p in batch],
        stats=stats,
        lengths=np.array([p.length for p in batch], "<i4"),
        sequence_steps=np.array([p.steps - 1 for p in batch], "<i4"),
        candidates=done.pages.reshape(-1, n),
        scores=done.scores.reshape(-1, n),
        flags=done.flags.reshape(-1, n),
        new_sequence=np.array([s for s, _, _ in new], "<i8"),
        new_group=np.array([g for _, g, _ in new], "<i4"),
        new_generation=np.array([v for _, _, v in new], "<u4"),
        loaded=loaded,
        evicted=evicted,
        **inside.told(evicted),
    )


def snapshot(tables: Tables, epoch: int) -> Snapshot:
    """All sequences' group tables and all resident pages."""
    playing = list(tables.open.values())
    groups = np.array([g for p in playing for g in p.groups], "<i4")
    return Snapshot(
        epoch=epoch,
        sequences=[p.number for p in playing],
        prompt_tokens=np.array([p.request.prompt_tokens for p in playing], "<i4"),
        lengths=np.array([p.length for p in playing], "<i4"),
        sequence_steps=np.array([p.steps for p in playing], "<i4"),
        offsets=np.cumsum([0, *(len(p.groups) for p in playing)]).astype("<i4"),
        groups=groups,
        generations=tables.pool.s.generation[groups].astype("<u4"),
        resident=tables.pool.resident_pages(),
    )
