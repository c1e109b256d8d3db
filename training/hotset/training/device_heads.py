"""The device's two heads: what `hotset.protos.device_features` keeps of a page is all that they see.

Trained beside the others wherever a log recorded lookaheads, by the same split, engine and recipe with fewer trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hotset.predictor.dataset import sequence_rows
from hotset.predictor.device import DeviceHeads, new_device_state
from hotset.predictor.device.lookahead import new_device_lookahead
from hotset.predictor.lookahead import use_rows
from hotset.predictor.recipe import DEVICE_TREES, use_params
from hotset.protos.device_features import DEVICE_FEATURES, PAGE_FEATURES
from hotset.training.engines import Engine, Job
from hotset.training.labels import use_labels
from hotset.training.logs import Log, slice_steps
from hotset.training.rows import Report, RowSet, Shard, write_shard
from hotset.training.split import Split
from hotset.training.use_head import UseData, use_metrics


@dataclass(frozen=True)
class DeviceData:
    """Rows to learn from of the head that tells the next use, and both sides' of the one that tells use now."""

    value: RowSet
    use: UseData


def build_device_rows(
    logs: Sequence[Log], split: Split, folder: Path, *, fraction: float, seed: int, report: Report
) -> DeviceData | None:
    """Write the rows of every piece that has a lookahead below `folder`; None if there is none to learn from."""
    values: list[Shard] = []
    sides: dict[bool, list[Shard]] = {False: [], True: []}
    for index, piece in enumerate(split.pieces):
        report("device features", index, len(split.pieces))
        sequence, meta = logs[piece.log].reader.read(piece.sequence), logs[piece.log].meta
        if not sequence.lookahead:
            continue
        steps, own = len(sequence.lengths), seed + index
        part = slice_steps(sequence, round(piece.begin * steps), round(piece.end * steps))
        states = new_device_state(part, meta), new_device_lookahead(part.page_count, meta)
        ranked = use_rows(part, meta, fraction=fraction, seed=own, states=states)
        shard = write_shard(folder / f"device-use-{index:06d}", ranked, len(DEVICE_FEATURES))
        sides[piece.held_out] += [shard] if shard.rows else []
        if not piece.held_out and len(part.lengths):
            rows = sequence_rows(part, meta, fraction=fraction, seed=own, state=new_device_state(part, meta))
            values.append(write_shard(folder / f"device-{index:06d}", rows, len(PAGE_FEATURES)))
    report("device features", len(split.pieces), len(split.pieces))
    train, held_out = (RowSet(tuple(sides[side]), ()) for side in (False, True))
    value = RowSet(tuple(shard for shard in values if shard.rows), ())
    return DeviceData(value, UseData(train, held_out)) if train.rows and value.rows else None


def fit_device_heads(
    data: DeviceData, engine: Engine, first: Job, report: Report
) -> tuple[DeviceHeads, dict[str, float]]:
    """Fit both heads, with the seed and threads of the `first` job; the second's ROC AUC on held-out rows."""
    value_job = replace(first, trees=DEVICE_TREES, names=[feature.name for feature in PAGE_FEATURES])
    value = engine.fit(data.value, value_job, lambda stage, done, total: report(f"device {stage}", done, total))
    params = first.params | use_params() | {key: first.params[key] for key in ("seed", "num_threads")}
    names = [feature.name for feature in DEVICE_FEATURES]
    use_job = replace(first, params=params, trees=DEVICE_TREES, names=names, labels=use_labels)
    use = engine.fit(data.use.train, use_job, lambda stage, done, total: report(f"device use {stage}", done, total))
    metrics = {f"device_{name}": value for name, value in use_metrics(use, data.use.held_out).items()}
    return DeviceHeads(value.model_to_string(), use.model_to_string()), metrics
