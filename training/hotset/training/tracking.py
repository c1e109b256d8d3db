"""What a training leaves in MLflow: parameters, metrics, curves, pictures, the data's fingerprint, the model."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hotset.training.logs import Log
from hotset.training.store import Store, mlflow_errors

MODEL_FOLDER = "model"
_METRICS_A_BATCH = 1000


@dataclass(frozen=True)
class RunRef:
    """Where a run is to be found again."""

    experiment: str
    run_id: str
    run_name: str
    tracking_uri: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)

    def model_source(self, folder: str) -> str:
        """The artifact URI of a model folder that was logged with the run."""
        return f"runs:/{self.run_id}/{folder}"


@dataclass(frozen=True)
class RunRecord:
    """All that is noted about a training. `folders` become artifacts under their names."""

    folders: Mapping[str, Path]
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    logs: Sequence[Log] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


def log_run(store: Store, experiment: str, run_name: str, record: RunRecord) -> RunRef:
    """Record a finished training as one run. RegistryError if the store refuses."""
    experiment_id = store.experiment(experiment)
    with mlflow_errors(store.uri):
        _end_abandoned(store, experiment_id)
        run = store.client.create_run(experiment_id, run_name=run_name, tags=_owner_tags())
        run_id = str(run.info.run_id)
        try:
            _log_facts(store, run_id, record)
            for name, folder in record.folders.items():
                store.client.log_artifacts(run_id, str(folder), name)
        except BaseException:
            store.client.set_terminated(run_id, "FAILED")
            raise
        store.client.set_terminated(run_id, "FINISHED")
    return RunRef(experiment, run_id, run_name, store.uri)


def _log_facts(store: Store, run_id: str, record: RunRecord) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in record.metrics.items()]
    for key, curve in record.curves.items():
        metrics += [Metric(f"curve {key}", value, now, step) for step, value in enumerate(curve, start=1)]
    store.client.log_batch(
        run_id,
        metrics=metrics[:_METRICS_A_BATCH],
        params=[Param(key, str(value)) for key, value in record.params.items()],
        tags=[RunTag(key, value) for key, value in record.tags.items()],
    )
    for start in range(_METRICS_A_BATCH, len(metrics), _METRICS_A_BATCH):
        store.client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_BATCH])
    _log_datasets(store, run_id, record.logs)


def _log_datasets(store: Store, run_id: str, logs: Sequence[Log]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=log.path.name,
                digest=log.fingerprint[:32],
                source_type="local",
                source=json.dumps({"uri": log.path.absolute().as_uri()}),
                profile=json.dumps({"rows": log.rows, "candidates": log.candidates}),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for log in logs
    ]
    if inputs:
        store.client.log_inputs(run_id, inputs)


def _owner_tags() -> dict[str, str]:
    return {"hotset.pid": str(os.getpid()), "hotset.host": socket.gethostname()}


def _end_abandoned(store: Store, experiment_id: str) -> None:
    """Runs that a killed trainer of this machine left open are closed as killed."""
    host = socket.gethostname()
    query = f"attributes.status = 'RUNNING' and tags.`hotset.host` = '{host}'"
    for run in store.client.search_runs([experiment_id], query):
        pid = run.data.tags.get("hotset.pid", "")
        if pid.isdigit() and not _alive(int(pid)):
            store.client.set_terminated(run.info.run_id, "KILLED")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
