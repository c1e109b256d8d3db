"""Where runs and model versions live: MLflow on a sqlite file by default, or any tracking URI.

All of hotset reaches MLflow through `open_store`, so that its chatter is silenced, its errors become one line,
and a killed process never leaves half a database behind.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hotset.training.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_DATABASE = "mlflow.db"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that does not answer is a user's mistake: say so in seconds, not after minutes of back-off.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


@dataclass(frozen=True)
class Store:
    """An open tracking store with its registry. `artifacts` is where new experiments keep their files; None
    leaves that to the server."""

    uri: str
    artifacts: Path | None
    client: MlflowClient

    def experiment(self, name: str) -> str:
        """The id of the experiment `name`, made if it does not exist yet."""
        with mlflow_errors(self.uri):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                location = None if self.artifacts is None else (self.artifacts / name).as_uri()
                return str(self.client.create_experiment(name, artifact_location=location))
            if found.lifecycle_stage != "active":
                raise RegistryError(f"experiment {name!r} was deleted in {self.uri}; use another --experiment")
            return str(found.experiment_id)


def tracking_uri(option: str | None = None) -> str:
    """The URI to use: the option, else $HOTSET_MLFLOW, else $MLFLOW_TRACKING_URI, else ./mlflow.db.

    A path stands for a sqlite file there (a folder: `mlflow.db` in it).
    """
    chosen = option or os.environ.get("HOTSET_MLFLOW") or os.environ.get("MLFLOW_TRACKING_URI")
    chosen = chosen or DEFAULT_DATABASE
    if "://" in chosen and not chosen.startswith("file://"):
        return chosen
    path = Path(chosen.removeprefix("file://")).expanduser().absolute()
    return f"sqlite:///{path if path.suffix in {'.db', '.sqlite'} else path / DEFAULT_DATABASE}"


def open_store(option: str | None = None) -> Store:
    """Open (and where it is a sqlite file, create) the store that `tracking_uri(option)` names.

    Raises RegistryError if it cannot be reached, is no MLflow store, or has another schema version.
    """
    return _open(tracking_uri(option))


@lru_cache(maxsize=8)
def _open(uri: str) -> Store:
    database = Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None
    with mlflow_errors(uri):
        client_class = import_mlflow()
        if database is not None:
            _ensure_database(database, client_class)
        with _known_warnings():
            client = client_class(tracking_uri=uri, registry_uri=uri)
            # The first request is what finds an unreachable server or a foreign file.
            client.search_experiments(max_results=1)
    return Store(uri, database.parent / "mlartifacts" if database is not None else None, client)


def import_mlflow() -> type[MlflowClient]:
    """Import MLflow (seconds, the first time) without its telemetry, progress bars and log lines."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with _known_warnings():
        from mlflow import MlflowClient
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient


def _ensure_database(path: Path, client_class: type[MlflowClient]) -> None:
    """Build the schema in a scratch file and link it into place: a kill on the way leaves no half database."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as scratch:
        fresh = Path(scratch) / "fresh.db"
        with _known_warnings():
            client = client_class(tracking_uri=f"sqlite:///{fresh}", registry_uri=f"sqlite:///{fresh}")
            client.search_experiments(max_results=1)
        snapshot = Path(scratch) / "snapshot.db"
        # Copied by sqlite itself, so that nothing of the write-ahead log is missing from the one file.
        with closing(sqlite3.connect(fresh)) as source, closing(sqlite3.connect(snapshot)) as target:
            source.backup(target)
        try:
            os.link(snapshot, path)
        except FileExistsError:
            return  # another process was first


@contextmanager
def _known_warnings() -> Iterator[None]:
    """MLflow 3.17's own mappers use a loader that SQLAlchemy 2.1 deprecates; nothing we could change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"The ``noload`` loader strategy is deprecated")
        yield


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or its server raise into one line that names the store."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise RegistryError(f"tracking store {uri}: {_first_line(error)}") from error
    except Exception as error:
        # MlflowException cannot be named before mlflow (seconds) is imported.
        if type(error).__module__.split(".")[0] not in {"mlflow", "requests"}:
            raise
        raise RegistryError(f"tracking store {uri}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
