"""Messages from the runtime's state: what a step accessed and moved, what a sequence holds, what is resident."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from hotset.protos.messages import SequenceClose, SequenceOpen, Snapshot, Step, StepStats
from hotset.runtime.groups import Sequence
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.passes import DecodePass


def _int32(values: Iterable[int]) -> npt.NDArray[np.int32]:
    return np.fromiter(values, dtype="<i4")


def sequence_open(kv: PagedKV, sequence: Sequence) -> SequenceOpen:
    """Announce a sequence whose prompt is in."""
    return SequenceOpen(
        sequence=sequence.id,
        prompt_tokens=sequence.prompt_tokens,
        parent=sequence.parent,
        groups=_int32(sequence.groups),
        generations=np.fromiter(map(kv.generation, sequence.groups), dtype="<u4"),
    )


def sequence_close(sequence: Sequence, reason: str) -> SequenceClose:
    """Announce the end of a sequence."""
    return SequenceClose(sequence=sequence.id, tokens=sequence.length, reason=reason)


def step_message(kv: PagedKV, done: DecodePass, sequences: list[Sequence], epoch: int, stats: StepStats) -> Step:
    """Everything that `done` accessed; takes the changes logged since the last step message."""
    new, kv.new_groups = kv.new_groups, []
    loaded, evicted = kv.manager.drain_changes()
    n = done.candidates.shape[-1]
    return Step(
        epoch=epoch,
        sequences=[s.id for s in sequences],
        stats=stats,
        lengths=done.batch.lengths.numpy(),
        sequence_steps=_int32(s.step - 1 for s in sequences),
        candidates=done.candidates.view(-1, n).numpy(),
        scores=done.scores.view(-1, n).numpy(),
        flags=done.flags.view(-1, n).numpy(),
        new_sequence=np.fromiter((s for s, _, _ in new), dtype="<i8"),
        new_group=_int32(g for _, g, _ in new),
        new_generation=np.fromiter((v for _, _, v in new), dtype="<u4"),
        loaded=loaded,
        evicted=evicted,
        by_layer=kv.manager.figures.message(),
        **(lookahead_ranks(done.ahead.distance, done.ahead.ranks.cpu()) if done.ahead is not None else {}),
    )


def lookahead_ranks(distances: list[int], ranks: torch.Tensor) -> dict[str, npt.NDArray[np.int32]]:
    """The `ranks` [layers, B, Hkv, width] of each distance as a step has them, -1 for layers that have another one."""
    distance = torch.tensor(distances)[:, None, None, None]
    found = {}
    for early in sorted({early for layer, early in enumerate(distances) if 0 < early <= layer}):
        mine = torch.where(distance == early, ranks, -1)
        found[f"lookahead_{early}"] = mine.transpose(0, 1).reshape(-1, mine.shape[-1]).numpy()
    return found


def snapshot(kv: PagedKV, epoch: int) -> Snapshot:
    """All sequences' group tables and all resident pages."""
    sequences = list(kv.sequences.values())
    groups = [g for s in sequences for g in s.groups]
    return Snapshot(
        epoch=epoch,
        sequences=[s.id for s in sequences],
        prompt_tokens=_int32(s.prompt_tokens for s in sequences),
        lengths=_int32(s.length for s in sequences),
        sequence_steps=_int32(s.step for s in sequences),
        offsets=_int32(np.cumsum([0, *(len(s.groups) for s in sequences)])),
        groups=_int32(groups),
        generations=np.fromiter(map(kv.generation, groups), dtype="<u4"),
        resident=kv.manager.resident_pages().to("cpu", torch.int32).numpy(),
    )
