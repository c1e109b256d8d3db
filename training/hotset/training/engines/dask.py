"""Training on a Dask cluster with LightGBM's own distributed learner (`lightgbm.dask`, data-parallel).

The rows are read by the workers, from the folder that they were built in: with workers on other machines it
must lie on storage that all of them see at the same path.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from hotset.training.engines.base import Job
from hotset.training.errors import TrainingError
from hotset.training.labels import ShardLabels
from hotset.training.rows import Report, RowSet, Shard

_PARTITION_ROWS = 1 << 18
_CONNECT_SECONDS = 15


class DaskEngine:
    """`lightgbm.DaskLGBMRegressor` on a given scheduler, or on a local cluster made for the occasion."""

    def fit(self, rows: RowSet, job: Job, report: Report) -> lgb.Booster:
        """See `Engine.fit`. The trees depend on how rows fall to workers, so only quality repeats, not bytes."""
        report("trees", 0, job.trees)
        with _client(job) as client:
            booster = _fit(client, rows, job)
        report("trees", job.trees, job.trees)
        return booster


def _fit(client: Any, rows: RowSet, job: Job) -> lgb.Booster:
    parts = list(_partitions(rows, len(client.scheduler_info()["workers"])))
    # The number of threads is the workers' own; LightGBM takes it from them.
    params: dict[str, Any] = {k: v for k, v in job.params.items() if k != "num_threads"}
    # With bundling on, LightGBM 4.7 corrupted its heap while building histograms (seen as aborts and hangs: 8 of 8
    # runs, none of 20 without). Probably each worker bundles by its own rows, so that histograms differ in size.
    params["enable_bundle"] = False
    # The objective decides what is fitted; the classifier would only wrap it in classes.
    model = lgb.DaskLGBMRegressor(client=client, n_estimators=job.trees, **params)
    with warnings.catch_warnings():
        # Said of every fit: the estimator always has the parameter, and the distributed learner never takes it.
        warnings.filterwarnings("ignore", message="Parameter n_jobs will be ignored")
        model.fit(
            _array(parts, _features, len(job.names)),
            _array(parts, partial(_label, job.labels, 0)),
            sample_weight=_array(parts, partial(_label, job.labels, 1)),
            feature_name=list(job.names),
        )
    return model.booster_


def _array(parts: list[tuple[Shard, int, int]], load: Any, *width: int) -> Any:
    """A Dask array that the workers load, one chunk a part."""
    delayed, dask_array = import_module("dask").delayed, import_module("dask.array")
    return dask_array.concatenate(
        [
            dask_array.from_delayed(delayed(load)(*part), shape=(part[2] - part[1], *width), dtype=np.float32)
            for part in parts
        ]
    )


def _partitions(rows: RowSet, workers: int) -> Iterator[tuple[Shard, int, int]]:
    """Slices of shards, small enough that every worker gets some."""
    size = max(1, min(_PARTITION_ROWS, rows.rows // (2 * max(workers, 1))))
    for shard in rows.shards:
        for start in range(0, shard.rows, size):
            yield shard, start, min(start + size, shard.rows)


def _features(shard: Shard, start: int, stop: int) -> npt.NDArray[np.float32]:
    return np.array(shard.features[start:stop])


def _label(labels: ShardLabels, column: int, shard: Shard, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Labels (column 0) or weights (1) of a slice."""
    return labels(shard)[column][start:stop]


@contextmanager
def _client(job: Job) -> Iterator[Any]:
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise TrainingError("the Dask engine needs its extra: pip install 'hotset[dask]'") from error
    if job.scheduler is None:
        with (
            distributed.LocalCluster(n_workers=job.workers, threads_per_worker=1, dashboard_address=":0") as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = distributed.Client(job.scheduler, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise TrainingError(f"no Dask scheduler answers at {job.scheduler}: {error}") from error
    with client:
        yield client
