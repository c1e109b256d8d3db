"""The registry on a real sqlite store: aliases, rollback, and what a kill between two writes leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotset.training import registry
from hotset.training.errors import RegistryError
from hotset.training.store import Store, open_store, tracking_uri


def add_version(store: Store, name: str, **metrics: float) -> registry.Version:
    """A finished run with a model folder, registered."""
    run = store.client.create_run(store.experiment("e"))
    store.client.log_text(run.info.run_id, "tree", "model/model.txt")
    return registry.register(name, f"runs:/{run.info.run_id}/model", run.info.run_id, metrics, store=store.uri)


def test_versions_count_up_and_keep_their_metrics(store: Store, name: str) -> None:
    add_version(store, name, rmse=1.5)
    add_version(store, name, rmse=1.25)
    versions = registry.list_versions(name, store=store.uri)
    assert [(v.number, v.metrics) for v in versions] == [(2, {"rmse": 1.25}), (1, {"rmse": 1.5})]


def test_resolve_finds_the_folder_by_version_alias_and_path(store: Store, name: str) -> None:
    version = add_version(store, name)
    registry.set_challenger(version, store=store.uri)
    by_version = registry.resolve_model(f"models:/{name}/1", store=store.uri)
    assert (by_version / "model.txt").read_text() == "tree"
    assert registry.resolve_model(f"models:/{name}@challenger", store=store.uri) == by_version
    assert registry.resolve_model(by_version) == by_version
    assert registry.resolve_model(by_version / "model.txt") == by_version


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("models:/none@champion", "no model 'none'"),
        ("models:/x", "no model URI"),
        ("models:/x/latest", "no model URI"),
        ("/no/such/folder", "no model folder"),
    ],
)
def test_a_wrong_model_is_one_clear_line(store: Store, uri: str, complaint: str) -> None:
    with pytest.raises(RegistryError, match=complaint) as caught:
        registry.resolve_model(uri, store=store.uri)
    assert "\n" not in str(caught.value)


def test_a_missing_alias_names_what_there_is(store: Store, name: str) -> None:
    registry.set_challenger(add_version(store, name), store=store.uri)
    with pytest.raises(RegistryError, match=r"no alias 'champion'.*it has 1@challenger"):
        registry.resolve_model(f"models:/{name}@champion", store=store.uri)
    with pytest.raises(RegistryError, match="no version 7"):
        registry.resolve_model(f"models:/{name}/7", store=store.uri)


def champion_number(store: Store, name: str) -> int | None:
    version = registry.champion(name, store=store.uri)
    return None if version is None else version.number


def test_rollback_walks_back_through_the_champions(store: Store, name: str) -> None:
    versions = [add_version(store, name) for _ in range(3)]
    for version in versions:
        registry.set_champion(version, store=store.uri)
    registry.set_champion(versions[2], store=store.uri)  # again: must not enter the history
    assert registry.rollback(name, store=store.uri).number == 2
    assert registry.rollback(name, store=store.uri).number == 1
    assert champion_number(store, name) == 1
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback(name, store=store.uri)


def test_a_kill_between_the_two_writes_of_a_promotion_is_harmless(store: Store, name: str) -> None:
    first, second = add_version(store, name), add_version(store, name)
    registry.set_champion(first, store=store.uri)
    # The history is written, the alias is not moved yet: the state that a kill there leaves.
    store.client.set_registered_model_tag(name, "hotset.champions", "[1]")
    assert champion_number(store, name) == 1
    registry.set_champion(second, store=store.uri)
    assert registry.rollback(name, store=store.uri).number == 1


def test_rollback_skips_a_deleted_version(store: Store, name: str) -> None:
    versions = [add_version(store, name) for _ in range(3)]
    for version in versions:
        registry.set_champion(version, store=store.uri)
    store.client.delete_model_version(name, "2")
    assert registry.rollback(name, store=store.uri).number == 1


def test_the_uri_is_chosen_by_option_then_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOTSET_MLFLOW", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri() == "http://tracking:5000"
    monkeypatch.setenv("HOTSET_MLFLOW", str(tmp_path / "runs"))
    assert tracking_uri() == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_a_file_that_is_no_store_is_one_clear_line(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_text("this is no database, and long enough to be read as one" * 10)
    with pytest.raises(RegistryError, match=r"tracking store .*foreign\.db") as caught:
        open_store(str(foreign))
    assert "\n" not in str(caught.value)
