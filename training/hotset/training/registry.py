"""Versions of the predictor and the two names that matter: `champion` serves, `challenger` wants to.

Every change is one transaction of the store, in an order that leaves a usable registry wherever it stops: a
version is registered after its files are complete, and an alias moves last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from hotset.predictor.model import CARD_FILE
from hotset.training.errors import RegistryError
from hotset.training.store import Store, mlflow_errors, open_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

DEFAULT_NAME = "hotset-reuse"
CHAMPION = "champion"
CHALLENGER = "challenger"
_HISTORY_TAG = "hotset.champions"
_HISTORY_LENGTH = 100
_NAME = re.compile(r"[\w.-]{1,200}")
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Version:
    """One registered version: its number, the aliases that point at it, where its files are, and its tags."""

    name: str
    number: int
    run_id: str
    source: str
    created_ms: int
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The held-out metrics noted when the version was registered."""
        return {k.removeprefix("metric."): float(v) for k, v in self.tags.items() if k.startswith("metric.")}

    @property
    def uri(self) -> str:
        """`models:/NAME/NUMBER`."""
        return f"models:/{self.name}/{self.number}"


def resolve_model(model: str | Path, *, store: str | None = None) -> Path:
    """The folder with the model's text and card for `models:/NAME@ALIAS`, `models:/NAME/3` or a path.

    Files of a remote store are downloaded to a temporary folder. Raises RegistryError if there is no such
    model, version, alias or folder.
    """
    text = str(model)
    if not text.startswith("models:"):
        return _existing_folder(Path(text))
    return version_folder(find_version(text, store=store), store=store)


def is_model(text: str) -> bool:
    """Whether a word on a command line means a model rather than a trace: a model URI, or a folder with a card."""
    return text.startswith("models:") or (Path(text) / CARD_FILE).is_file()


def find_version(uri: str, *, store: str | None = None) -> Version:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/3` means; RegistryError if there is none."""
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise RegistryError(f"{uri!r} is no model URI; write models:/NAME@{CHAMPION} or models:/NAME/3")
    opened = open_store(store)
    versions = list_versions(parts["name"], store=store)
    if not versions:
        raise RegistryError(f"no model {parts['name']!r} in {opened.uri}; `hotset models` lists what there is")
    for version in versions:
        if version.number == int(parts["version"] or -1) or parts["alias"] in version.aliases:
            return version
    wanted = f"version {parts['version']}" if parts["version"] else f"alias {parts['alias']!r}"
    known = ", ".join(f"{v.number}{''.join('@' + a for a in v.aliases)}" for v in versions[:8])
    raise RegistryError(
        f"model {parts['name']!r} has no {wanted} in {opened.uri}; it has {known}: "
        f"name one, as models:/{parts['name']}/{versions[0].number}"
    )


def version_folder(version: Version, *, store: str | None = None) -> Path:
    """The local folder of a version's files; see `resolve_model`."""
    opened = open_store(store)
    source = version.source
    with mlflow_errors(opened.uri):
        if source.startswith("runs:/"):
            run_id, _, inside = source.removeprefix("runs:/").partition("/")
            source = f"{opened.client.get_run(run_id).info.artifact_uri}/{inside}"
        if source.startswith(("file://", "/")):
            return _existing_folder(Path(unquote(urlparse(source).path)))
        from mlflow.artifacts import download_artifacts

        return Path(str(download_artifacts(artifact_uri=source, tracking_uri=opened.uri)))


def _existing_folder(path: Path) -> Path:
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise RegistryError(f"{path} is no model folder; give a folder, or models:/NAME@{CHAMPION}")
    return folder


def model_names(*, store: str | None = None) -> list[str]:
    """Names of the registered models."""
    opened = open_store(store)
    with mlflow_errors(opened.uri):
        return [model.name for model in opened.client.search_registered_models()]


def list_versions(name: str, *, store: str | None = None) -> list[Version]:
    """Every version of a model, newest first; empty if there is no such model."""
    opened = open_store(store)
    with mlflow_errors(opened.uri):
        found = opened.client.search_registered_models(filter_string=f"name = {_quoted(name)}")
        if not found:
            return []
        aliases = dict(found[0].aliases)
        entries = opened.client.search_model_versions(f"name = {_quoted(name)}")
    return sorted((_version(e, aliases) for e in entries), key=lambda v: -v.number)


def _version(entry: ModelVersion, aliases: Mapping[str, Any]) -> Version:
    number = int(entry.version)
    return Version(
        name=str(entry.name),
        number=number,
        run_id=str(entry.run_id or ""),
        source=str(entry.source),
        created_ms=int(entry.creation_timestamp or 0),
        aliases=tuple(sorted(a for a, at in aliases.items() if int(at) == number)),
        tags=dict(entry.tags),
    )


def check_name(name: str) -> None:
    """Raise RegistryError unless a model may have this name."""
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{name!r} is no model name; use letters, digits, '-', '_' and '.'")


def _quoted(name: str) -> str:
    check_name(name)
    return f"'{name}'"


def register(name: str, source: str, run_id: str, metrics: Mapping[str, float], *, store: str | None = None) -> Version:
    """Register the complete model folder at `source` (an artifact URI) as the next version of `name`."""
    opened = open_store(store)
    tags = {f"metric.{key}": repr(float(value)) for key, value in metrics.items()}
    with mlflow_errors(opened.uri):
        if not opened.client.search_registered_models(filter_string=f"name = {_quoted(name)}"):
            _create_model(opened, name)
        entry = opened.client.create_model_version(name, source, run_id, tags=tags)
    return _version(entry, {})


def _create_model(opened: Store, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        opened.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another process was first
            raise


def set_challenger(version: Version, *, store: str | None = None) -> None:
    """Point the alias `challenger` at a version."""
    opened = open_store(store)
    with mlflow_errors(opened.uri):
        opened.client.set_registered_model_alias(version.name, CHALLENGER, str(version.number))


def tag_version(version: Version, tags: Mapping[str, str], *, store: str | None = None) -> None:
    """Note facts, such as the outcome of the gate, on a version."""
    opened = open_store(store)
    with mlflow_errors(opened.uri):
        for key, value in tags.items():
            opened.client.set_model_version_tag(version.name, str(version.number), key, value)


def champion(name: str, *, store: str | None = None) -> Version | None:
    """The version that serves now, or None."""
    return next((v for v in list_versions(name, store=store) if CHAMPION in v.aliases), None)


def set_champion(version: Version, *, store: str | None = None) -> None:
    """Let `version` serve. The gate is `promotion.promote`'s business, not checked here."""
    opened = open_store(store)
    serving = champion(version.name, store=store)
    with mlflow_errors(opened.uri):
        if serving is not None and serving.number != version.number:
            _write_history(opened, version.name, [*_history(opened, version.name), serving.number])
        opened.client.set_registered_model_alias(version.name, CHAMPION, str(version.number))


def rollback(name: str, *, store: str | None = None) -> Version:
    """Let the champion before the present one serve again, and return it; RegistryError if there is none."""
    opened = open_store(store)
    versions = {v.number: v for v in list_versions(name, store=store)}
    serving = next((n for n, v in versions.items() if CHAMPION in v.aliases), None)
    with mlflow_errors(opened.uri):
        history = _history(opened, name) if versions else []
        # A kill between the two writes below or in set_champion leaves the serving version on top; a version
        # may have been deleted since it served.
        while history and (history[-1] == serving or history[-1] not in versions):
            history.pop()
        if not history:
            raise RegistryError(f"model {name!r} has no champion before the present one; nothing to roll back to")
        opened.client.set_registered_model_alias(name, CHAMPION, str(history[-1]))
        _write_history(opened, name, history[:-1])
    return versions[history[-1]]


def _history(opened: Store, name: str) -> list[int]:
    """Earlier champions, the latest last."""
    return [int(n) for n in json.loads(opened.client.get_registered_model(name).tags.get(_HISTORY_TAG, "[]"))]


def _write_history(opened: Store, name: str, history: list[int]) -> None:
    opened.client.set_registered_model_tag(name, _HISTORY_TAG, json.dumps(history[-_HISTORY_LENGTH:]))
