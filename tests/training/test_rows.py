"""Rows on disk: nothing of the held-out part leaks into training, and the same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hotset.predictor.dataset import sequence_rows
from hotset.training.errors import TrainingError
from hotset.training.logs import open_logs, slice_steps
from hotset.training.rows import ShardSequence, TrainingRows, build_rows
from hotset.training.split import split_logs
from hotset.training.train import silent

MakeLog = Callable[..., Path]


def build(log: Path, folder: Path, *, kind: str = "auto", max_rows: int = 0, seed: int = 0) -> TrainingRows:
    folder.mkdir()
    logs = open_logs([log])
    split = split_logs(logs, kind=kind, seed=seed)
    return build_rows(logs, split, folder, max_rows=max_rows, seed=seed, report=silent)


def test_no_sequence_is_on_both_sides(make_log: MakeLog, tmp_path: Path) -> None:
    rows = build(make_log(sequences=6), tmp_path / "rows")
    assert len(rows.train.extents) == 4
    assert not any(a.overlaps(b) for a in rows.train.extents for b in rows.held_out.extents)


def test_cut_in_time_labels_know_nothing_of_the_held_out_part(make_log: MakeLog, tmp_path: Path) -> None:
    log = make_log(sequences=1, steps=50)
    rows = build(log, tmp_path / "rows", kind="time")
    assert not any(a.overlaps(b) for a in rows.train.extents for b in rows.held_out.extents)
    (opened,) = open_logs([log])
    sequence, meta = opened.reader.read(0), opened.meta
    # What a recording that stopped at the cut would have given, row for row.
    expected = list(sequence_rows(slice_steps(sequence, 0, 40), meta, fraction=1.0, seed=0))
    assert np.array_equal(rows.train.column("target"), np.concatenate([part.target for part in expected]))
    full = np.concatenate([part.target for part in sequence_rows(sequence, meta, fraction=1.0, seed=0)])
    assert rows.train.column("target").max() <= np.log2(40) < full.max()


def test_the_seed_decides_every_byte(make_log: MakeLog, tmp_path: Path) -> None:
    log = make_log()
    first, again, other = (
        build(log, tmp_path / f"rows-{index}", max_rows=3000, seed=seed) for index, seed in enumerate((7, 7, 8))
    )
    assert [s.rows for s in first.train.shards] == [s.rows for s in again.train.shards]
    for name in ("target", "censored", "lane"):
        assert np.array_equal(first.train.column(name), again.train.column(name))
    before, after = (np.concatenate([s.features for s in rows.train.shards]) for rows in (first, again))
    assert np.array_equal(before, after, equal_nan=True)
    assert not np.array_equal(first.train.column("target"), other.train.column("target"))


def test_the_cap_on_rows_holds_and_every_sequence_is_heard(make_log: MakeLog, tmp_path: Path) -> None:
    log = make_log(sequences=5, steps=40)
    rows = build(log, tmp_path / "few", max_rows=2000)
    total = rows.train.rows + rows.held_out.rows
    assert 1600 < total < 2400
    assert rows.fraction == pytest.approx(2000 / (5 * 40 * 4 * 12))
    assert len(rows.train.shards) + len(rows.held_out.shards) == 5


def test_a_sample_finds_its_rows_across_shards(make_log: MakeLog, tmp_path: Path) -> None:
    rows = build(make_log(), tmp_path / "rows").train
    features, chosen = rows.sample(100, seed=1)
    everything = np.concatenate([shard.features for shard in rows.shards])
    assert len(set(chosen.tolist())) == 100
    assert np.array_equal(features, everything[chosen], equal_nan=True)
    assert len(rows.sample(1 << 40, seed=1)[1]) == rows.rows


def test_lightgbm_reads_shards_row_by_row_and_in_slices(make_log: MakeLog, tmp_path: Path) -> None:
    shard = build(make_log(), tmp_path / "rows").train.shards[1]
    sequence = ShardSequence(shard)
    assert len(sequence) == shard.rows
    assert np.array_equal(sequence[3], shard.features[3], equal_nan=True)
    assert np.array_equal(sequence[2:9], shard.features[2:9], equal_nan=True)
    assert sequence[3].dtype == np.float64  # LightGBM finds bin borders on doubles only


def test_too_little_data_is_one_clear_line(make_log: MakeLog, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="too little data"):
        build(make_log(sequences=1, steps=2), tmp_path / "rows")
