"""What survives a restart, what of it is refused, and that models are checked by hash before they plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest

from hotset.daemon.config import DaemonConfig
from hotset.daemon.resume import InService, Memory, StateFile, kind_of
from hotset.daemon.scorers import HeuristicScorer
from hotset.daemon.sidecar import Sidecar
from hotset.predictor import recipe
from hotset.predictor.model import CARD_FILE, MODEL_FILE, ModelCard, ReuseModel
from hotset.protos.features import FEATURES
from hotset.protos.messages import Advice, Geometry, Hello, Message, Snapshot, Step

GEOMETRY = Geometry(layers=2, kv_heads=2, page_size=4, selected=3, candidates=6, page_bytes=64, slots=64, groups=64)


@pytest.fixture(scope="module")
def model() -> ReuseModel:
    rows = np.random.default_rng(0).normal(size=(400, len(FEATURES))).astype(np.float32)
    data = lgb.Dataset(rows, rows[:, 0].copy())
    params = recipe.lightgbm_params() | {"objective": "regression", "min_data_in_leaf": 5}
    return ReuseModel(ModelCard(), lgb.train(params, data, 4).model_to_string())


@pytest.fixture
def folder(model: ReuseModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def hello(session: str = "s1", model: str = "tiny") -> Hello:
    return Hello(
        session=session, pid=1, model=model, geometry=GEOMETRY, epoch=0, builtin_policy="lru", controller=True,
        lease_seconds=3.0,
    )  # fmt: skip


def empty_snapshot() -> Snapshot:
    none = np.zeros(0, "<i4")
    return Snapshot(
        epoch=0, sequences=[], prompt_tokens=none, lengths=none, sequence_steps=none, offsets=np.zeros(1, "<i4"),
        groups=none, generations=none.astype("<u4"), resident=none,
    )  # fmt: skip


def idle_step() -> Step:
    none, pages = np.zeros(0, "<i4"), np.zeros((0, GEOMETRY.candidates), "<i4")
    return Step(
        epoch=1, sequences=[], lengths=none, sequence_steps=none, candidates=pages, scores=pages.astype("|u1"),
        flags=pages.astype("|u1"), new_sequence=none.astype("<i8"), new_group=none, new_generation=none.astype("<u4"),
        loaded=none, evicted=none,
    )  # fmt: skip


def kept(tmp_path: Path, folder: Path, model: ReuseModel, **changes: object) -> Memory:
    """A memory that a daemon left in its state file."""
    served = InService(folder=folder, sha256=model.card.sha256, **changes)
    memory = Memory(session="s1", kind=kind_of(hello()), in_service=served, trainings=2, since_training=70)
    StateFile(tmp_path).keep([memory])
    return memory


def test_the_same_session_takes_up_everything(tmp_path: Path, folder: Path, model: ReuseModel) -> None:
    kept(tmp_path, folder, model, guard_ok=False, learned_misses=900, heuristic_misses=600)
    recalled = StateFile(tmp_path).recall(hello())
    assert recalled is not None
    memory, scorer = recalled
    assert scorer is not None
    assert scorer.version == model.card.version
    config = DaemonConfig(log_dir=tmp_path, train=True, train_after=50, train_every=200)
    sidecar = Sidecar(hello(), config, HeuristicScorer(), lambda _message: True)
    sidecar.resume(memory, scorer)
    sidecar.greeted(hello())
    # The guard was against the model, and still is; it remains the one that may come back.
    assert sidecar.status.source == "heuristic"
    again = sidecar.memory
    assert again.in_service == memory.in_service
    assert (again.trainings, again.since_training) == (2, 70)
    sidecar.close("test")


def test_a_restarted_daemon_plans_with_the_model_at_once(tmp_path: Path, folder: Path, model: ReuseModel) -> None:
    kept(tmp_path, folder, model)
    recalled = StateFile(tmp_path).recall(hello())
    assert recalled is not None
    sidecar = Sidecar(hello(), DaemonConfig(log_dir=tmp_path), HeuristicScorer(), lambda _message: True)
    sidecar.resume(*recalled)
    sidecar.greeted(hello())
    assert (sidecar.status.source, sidecar.status.model_version) == ("learned", model.card.version)
    assert [phase["phase"] for phase in sidecar.status.phases] == ["resumed", "attach", "learned"]
    sidecar._measure()
    gauges = sidecar.status.gauges
    assert (gauges.guard_ok, gauges.ghost_learned, gauges.retrain_wanted) == (True, 0, False)
    assert gauges.model_made == pytest.approx((folder / MODEL_FILE).stat().st_mtime)
    sidecar.close("test")


def test_a_restarted_daemon_remembers_what_it_withdrew(tmp_path: Path) -> None:
    withdrawn = {"0" * 64: "worse"}
    StateFile(tmp_path).keep([Memory(session="s1", kind=kind_of(hello()), withdrawn=withdrawn)])
    recalled = StateFile(tmp_path).recall(hello())
    assert recalled is not None
    sidecar = Sidecar(hello(), DaemonConfig(log_dir=tmp_path), HeuristicScorer(), lambda _message: True)
    sidecar.resume(*recalled)
    assert sidecar._in_step.push.withdrawn == sidecar.memory.withdrawn == withdrawn
    sidecar.close("test")


def test_a_restarted_daemon_says_again_what_it_advised(tmp_path: Path) -> None:
    memory = Memory(session="s1", kind=kind_of(hello()), advised_concurrency=3, advised_slots=40)
    StateFile(tmp_path).keep([memory])
    recalled = StateFile(tmp_path).recall(hello())
    assert recalled is not None
    said: list[Message] = []

    def say(message: Message) -> bool:
        said.append(message)
        return True

    sidecar = Sidecar(hello(), DaemonConfig(log_dir=tmp_path), HeuristicScorer(), say)
    sidecar.resume(*recalled)
    # Killed before it says anything, it still knows.
    assert (sidecar.memory.advised_concurrency, sidecar.memory.advised_slots) == (3, 40)
    sidecar.greeted(hello())
    sidecar.learn(empty_snapshot())
    sidecar.learn(idle_step())
    sidecar.answer(0.0)
    advice = next(message for message in said if isinstance(message, Advice))
    assert (advice.concurrency, advice.hot_slots) == (3, 40)
    assert advice.reason == "as an earlier daemon advised"
    sidecar.close("test")
    assert StateFile(tmp_path).recall(hello("s2")) is None


def test_another_session_of_the_kind_takes_up_the_model_only(tmp_path: Path, folder: Path, model: ReuseModel) -> None:
    kept(tmp_path, folder, model)
    state = StateFile(tmp_path)
    recalled = state.recall(hello("s2"))
    assert recalled is not None
    assert recalled[1] is not None
    assert (recalled[0].trainings, recalled[0].since_training) == (0, 0)
    assert state.recall(hello("s2", model="other")) is None


def test_a_model_that_the_guard_was_against_is_not_passed_on(tmp_path: Path, folder: Path, model: ReuseModel) -> None:
    kept(tmp_path, folder, model, guard_ok=False)
    assert StateFile(tmp_path).recall(hello("s2")) is None


def test_a_newly_configured_model_wins(tmp_path: Path, folder: Path, model: ReuseModel) -> None:
    kept(tmp_path, folder, model)
    assert StateFile(tmp_path, configured="f" * 64).recall(hello()) is None


def damage(folder: Path, how: str) -> None:
    if how == "missing":
        shutil.rmtree(folder)
    elif how == "corrupt":
        (folder / MODEL_FILE).write_text((folder / MODEL_FILE).read_text().replace("leaf_value=", "leaf_value=9", 1))
    elif how == "truncated":
        (folder / MODEL_FILE).write_bytes((folder / MODEL_FILE).read_bytes()[:1000])
    elif how == "pickle":
        # Would print if anybody unpickled it.
        (folder / MODEL_FILE).write_bytes(b"cbuiltins\nprint\n(S'executed'\ntR.")
    elif how == "no hash":
        card = json.loads((folder / CARD_FILE).read_text()) | {"version": "", "sha256": ""}
        (folder / CARD_FILE).write_text(json.dumps(card))
    else:
        text = (folder / MODEL_FILE).read_text() + "\n"
        (folder / MODEL_FILE).unlink()
        ReuseModel(ModelCard(), text).save(folder)


@pytest.mark.parametrize("how", ["missing", "corrupt", "truncated", "pickle", "no hash", "foreign"])
def test_a_model_that_is_not_what_it_was_is_refused_and_trained_anew(
    tmp_path: Path, folder: Path, model: ReuseModel, how: str, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kept(tmp_path, folder, model)
    damage(folder, how)
    recalled = StateFile(tmp_path).recall(hello())
    assert recalled is not None
    memory, scorer = recalled
    assert scorer is None
    assert (memory.in_service, memory.trainings) == (None, 0)
    assert "event=model_refused" in caplog.text
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b"\xff", b"null", b'{"version": 2, "sha256": "", "sessions": []}', "edited", "cut"],
)
def test_a_damaged_file_is_ignored_with_a_warning(
    tmp_path: Path, folder: Path, model: ReuseModel, content: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path, folder, model)
    path = StateFile(tmp_path).path
    whole = path.read_bytes()
    changed = {"edited": whole.replace(b'"trainings": 2', b'"trainings": 3'), "cut": whole[: len(whole) // 2]}
    path.write_bytes(content if isinstance(content, bytes) else changed[content])
    assert path.read_bytes() != whole
    caplog.clear()
    state = StateFile(tmp_path)
    assert state.recall(hello()) is None
    assert caplog.text.count("event=state_ignored") == 1
    state.keep([Memory(session="s1", kind=kind_of(hello()))])
    assert StateFile(tmp_path).recall(hello()) is not None


def test_the_file_is_bounded_and_a_full_disk_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = StateFile(tmp_path)
    for number in range(200):
        state.keep([Memory(session=f"s{number}", kind=kind_of(hello()))])
    left = json.loads(state.path.read_text())["sessions"]
    assert {memory["session"] for memory in left} == {f"s{number}" for number in range(136, 200)}
    (tmp_path / "file").touch()
    StateFile(tmp_path / "file").keep([Memory(session="s", kind=kind_of(hello()))])
    assert "event=state_failed" in caplog.text
