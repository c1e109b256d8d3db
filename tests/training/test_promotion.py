"""Promotion through the gate on a real registry, with real replays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hotset.training import registry
from hotset.training.errors import TrainingError
from hotset.training.gate import QUICK_HEURISTICS, make_settings
from hotset.training.options import TrainOptions
from hotset.training.promotion import adopt, promote
from hotset.training.store import Store
from hotset.training.train import TrainResult, train

MakeLog = Callable[..., Path]
SETTINGS = make_settings(ratio=1.5, pool="lane", heuristics=QUICK_HEURISTICS)


@pytest.fixture
def challenger(shared_log: Path, tmp_path: Path, store: Store, name: str) -> TrainResult:
    """A fresh challenger of a name of its own, no champion yet."""
    options = TrainOptions(name=name, experiment="promotion", tracking_uri=store.uri, trees=16)
    return train([shared_log], tmp_path / "trained", options)


def test_the_gate_decides_and_says_why(challenger: TrainResult, make_log: MakeLog, store: Store) -> None:
    held_out = make_log("held-out", sequences=2, seed=9)
    result = promote(challenger.version, [held_out], SETTINGS, store=store.uri)
    best = min(f.stall_seconds for f in result.gate.figures[1:])
    assert result.promoted is (result.gate.figures[0].stall_seconds < best)
    serving = registry.champion(challenger.version.name, store=store.uri)
    assert (serving is not None) is result.promoted
    (version,) = registry.list_versions(challenger.version.name, store=store.uri)
    assert version.tags["gate"] == ("passed" if result.promoted else "refused")
    assert version.tags["gate.reason"] == result.reason


def test_a_trace_that_was_trained_on_is_no_judge(challenger: TrainResult, shared_log: Path, store: Store) -> None:
    with pytest.raises(TrainingError, match="was trained on; the gate needs traces that were held out"):
        promote(challenger.version, [shared_log], SETTINGS, store=store.uri)
    assert registry.champion(challenger.version.name, store=store.uri) is None


def test_the_same_model_again_is_not_better_than_the_champion(
    challenger: TrainResult, make_log: MakeLog, store: Store, name: str
) -> None:
    registry.set_champion(challenger.version, store=store.uri)
    held_out = make_log("held-out", sequences=2, seed=9)
    smaller = train(
        [make_log("other", sequences=2, steps=12, seed=4)],
        challenger.folder.parent / "smaller",
        TrainOptions(name=name, experiment="promotion", tracking_uri=store.uri, trees=1),
    )
    result = promote(smaller.version, [held_out], SETTINGS, store=store.uri)
    assert [f.contender for f in result.gate.figures] == ["challenger", "champion", *QUICK_HEURISTICS]
    assert not result.promoted
    assert "champion" in result.reason
    serving = registry.champion(name, store=store.uri)
    assert serving is not None
    assert serving.number == challenger.version.number


def test_a_folder_trained_elsewhere_becomes_a_version(challenger: TrainResult, store: Store, name: str) -> None:
    version = adopt(challenger.folder, f"{name}-adopted", store=store.uri)
    folder = registry.version_folder(version, store=store.uri)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in challenger.folder.iterdir())
