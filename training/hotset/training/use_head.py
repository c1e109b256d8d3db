"""The second head: how likely a page that a lookahead ranks is used at this very step.

Trained beside the first wherever a log recorded lookaheads; without them a model has one head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightgbm as lgb
import numpy as np
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from hotset.predictor.lookahead import WIDTH, use_rows
from hotset.predictor.recipe import USE_TREES, use_params
from hotset.protos.lookahead import LOOKAHEAD_FEATURES
from hotset.training.engines import Engine, Job
from hotset.training.labels import use_labels
from hotset.training.logs import Log, slice_steps
from hotset.training.rows import FEATURE_NAMES, Report, RowSet, Shard, write_shard
from hotset.training.split import Split

USE_NAMES = (*FEATURE_NAMES, *(feature.name for feature in LOOKAHEAD_FEATURES))
_SAMPLE = 50_000


@dataclass(frozen=True)
class UseHead:
    """The head's text model, and its ROC AUC on held-out rows (none if they are all of one class)."""

    text: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class UseData:
    """Rows of the second head, divided as those of the first."""

    train: RowSet
    held_out: RowSet


def build_use_rows(
    logs: Sequence[Log], split: Split, folder: Path, *, fraction: float, seed: int, report: Report
) -> UseData | None:
    """Write the rows of every piece that has a lookahead below `folder`; None if there is none to learn from."""
    sides: dict[bool, list[Shard]] = {False: [], True: []}
    for index, piece in enumerate(split.pieces):
        report("lookahead", index, len(split.pieces))
        sequence = logs[piece.log].reader.read(piece.sequence)
        if not sequence.lookahead:
            continue
        steps = len(sequence.lengths)
        part = slice_steps(sequence, round(piece.begin * steps), round(piece.end * steps))
        chunks = use_rows(part, logs[piece.log].meta, fraction=fraction, seed=seed + index)
        shard = write_shard(folder / f"use-{index:06d}", chunks, WIDTH)
        sides[piece.held_out] += [shard] if shard.rows else []
    report("lookahead", len(split.pieces), len(split.pieces))
    train, held_out = (RowSet(tuple(sides[side]), ()) for side in (False, True))
    return UseData(train, held_out) if train.rows else None


def fit_use_head(data: UseData, engine: Engine, first: Job, report: Report) -> UseHead:
    """Fit the head by its own recipe, with the seed and threads of the `first`, and judge it on the held-out rows."""
    params = first.params | use_params() | {key: first.params[key] for key in ("seed", "num_threads")}
    # Fewer rows than the first head has, and more trees; never fewer than the user asked for.
    job = replace(first, params=params, trees=max(first.trees, USE_TREES), names=USE_NAMES, labels=use_labels)
    booster = engine.fit(data.train, job, lambda stage, done, total: report(f"use {stage}", done, total))
    return UseHead(booster.model_to_string(), use_metrics(booster, data.held_out))


def use_metrics(booster: lgb.Booster, rows: RowSet) -> dict[str, float]:
    """ROC AUC of a head on held-out rows; none if they are all of one class."""
    if not rows.rows:
        return {}
    features, chosen = rows.sample(_SAMPLE, seed=0)
    used = rows.column("used")[chosen]
    if used.all() or not used.any():
        return {}
    return {"use_auc": float(roc_auc_score(used, np.asarray(booster.predict(features, num_threads=1))))}
