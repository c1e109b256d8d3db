"""Engines on the same rows: the same trees where that is promised, equal quality where it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hotset.predictor.recipe import CAP, lightgbm_params
from hotset.training.engines import Job, make_engine
from hotset.training.errors import TrainingError
from hotset.training.labels import gather, reuse_labels
from hotset.training.logs import open_logs
from hotset.training.measures import draw, row_metrics
from hotset.training.rows import RowSet, TrainingRows, build_rows
from hotset.training.split import split_logs
from hotset.training.train import silent

MakeLog = Callable[..., Path]
SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def rows_of(log: Path, folder: Path, *, max_rows: int = 0) -> TrainingRows:
    folder.mkdir()
    logs = open_logs([log])
    return build_rows(logs, split_logs(logs, seed=0), folder, max_rows=max_rows, seed=0, report=silent)


def trees(rows: RowSet, *, seed: int = 0, threads: int = 1, drawn: float = 1.0) -> str:
    chosen = lightgbm_params(seed=seed, threads=threads) | {"bagging_fraction": drawn, "bagging_freq": 1}
    text: str = make_engine("local").fit(rows, Job(chosen, trees=6), silent).model_to_string()
    return text.split("parameters:")[0]


def test_neither_a_second_try_nor_threads_change_the_trees(make_log: MakeLog, tmp_path: Path) -> None:
    rows = rows_of(make_log(), tmp_path / "rows").train
    first = trees(rows)
    assert first == trees(rows)
    assert first == trees(rows, threads=2)


def test_the_seed_reaches_lightgbm(make_log: MakeLog, tmp_path: Path) -> None:
    rows = rows_of(make_log(), tmp_path / "rows").train
    assert trees(rows, seed=1, drawn=0.5) == trees(rows, seed=1, drawn=0.5)
    assert trees(rows, seed=1, drawn=0.5) != trees(rows, seed=2, drawn=0.5)


def test_labels_come_in_the_order_of_the_rows(make_log: MakeLog, tmp_path: Path) -> None:
    rows = rows_of(make_log(), tmp_path / "rows").train
    label, weight = gather(rows, reuse_labels)
    target, censored = rows.column("target"), rows.column("censored").astype(np.bool_)
    assert label.shape == weight.shape == (rows.rows,)
    short = ~censored & (target < CAP)
    assert np.array_equal(label[short], target[short])
    assert np.all(label[censored] >= np.minimum(target[censored], CAP))


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(TrainingError, match="unknown engine 'spark'; choose one of local, dask"):
        make_engine("spark")


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a real cluster of two worker processes."""
    distributed = pytest.importorskip("distributed")
    with (
        quiet("distributed"),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1"
        ) as cluster,
    ):
        yield cluster.scheduler_address


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Workers say goodbye at length."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.CRITICAL)
    yield
    logging.getLogger(logger).setLevel(level)


@pytest.mark.e2e
def test_two_dask_workers_give_a_model_of_equal_quality(tmp_path: Path, scheduler: str) -> None:
    rows = rows_of(SAMPLE, tmp_path / "rows", max_rows=120_000)
    held_out = draw(rows.held_out, seed=0)
    errors, areas = {}, {}
    for engine, address in (("local", None), ("dask", scheduler)):
        job = Job(lightgbm_params(seed=0, threads=1), trees=16, scheduler=address)
        booster = make_engine(engine).fit(rows.train, job, silent)
        assert booster.num_trees() == 16
        metrics = row_metrics(np.asarray(booster.predict(held_out.features, num_threads=1)), held_out)
        errors[engine], areas[engine] = metrics["rmse"], metrics["auc_within_16"]
    assert errors["dask"] == pytest.approx(errors["local"], rel=0.02)
    assert areas["dask"] == pytest.approx(areas["local"], abs=0.01)


@pytest.mark.e2e
def test_a_scheduler_that_does_not_answer_is_one_clear_line(make_log: MakeLog, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    rows = rows_of(make_log(), tmp_path / "rows").train
    job = Job(lightgbm_params(), trees=2, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(TrainingError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9") as caught:
        make_engine("dask").fit(rows, job, silent)
    assert "\n" not in str(caught.value)
