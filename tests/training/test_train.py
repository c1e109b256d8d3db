"""A whole training on a small log: the model, the run in MLflow, the registry, and a user's mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest

from hotset.predictor.lookahead import WIDTH as LOOKAHEAD_WIDTH
from hotset.predictor.model import CARD_FILE, MODEL_FILE, USE_FILE, ReuseModel
from hotset.predictor.replay import replay
from hotset.predictor.trace import read_trace
from hotset.protos.errors import HotsetError, TraceError
from hotset.protos.features import FEATURES
from hotset.training import registry
from hotset.training.errors import RegistryError, TrainingError
from hotset.training.logs import Extent, data_fingerprint, extent_of, open_logs
from hotset.training.measures import Sample, learning_curve
from hotset.training.options import TrainOptions
from hotset.training.store import Store
from hotset.training.train import TrainResult, train

MakeLog = Callable[..., Path]
SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def run(log: Path, out: Path, store: Store, name: str, **options: object) -> TrainResult:
    chosen = TrainOptions(name=name, experiment=name, tracking_uri=store.uri, trees=8, **options)  # type: ignore[arg-type]
    return train([log], out, chosen)


@pytest.fixture(scope="module")
def trained(shared_log: Path, tmp_path_factory: pytest.TempPathFactory, store: Store) -> tuple[Path, TrainResult]:
    """One log and the training on it, for tests that only look."""
    return shared_log, run(shared_log, tmp_path_factory.mktemp("trained"), store, "looked-at", seed=3)


def test_the_same_training_again_gives_the_same_bytes(
    trained: tuple[Path, TrainResult], tmp_path: Path, store: Store, name: str
) -> None:
    log, before = trained
    again = run(log, tmp_path / "again", store, name, seed=3)
    assert (again.folder / MODEL_FILE).read_bytes() == (before.folder / MODEL_FILE).read_bytes()


def test_the_model_predicts_what_lightgbm_predicts(trained: tuple[Path, TrainResult]) -> None:
    _, result = trained
    booster = lgb.Booster(model_file=result.folder / MODEL_FILE)
    assert booster.feature_name() == [feature.name for feature in FEATURES]
    rows = np.random.default_rng(0).normal(20, 20, (64, len(FEATURES))).astype(np.float32)
    loaded = ReuseModel.load(result.folder)
    assert loaded.card.version == result.model.card.version
    assert np.array_equal(loaded.predict(rows), result.model.predict(rows))
    assert np.allclose(loaded.predict(rows), booster.predict(rows, num_threads=1), atol=1e-6)


def test_a_learning_curve_is_of_all_rows_and_not_of_the_first(trained: tuple[Path, TrainResult]) -> None:
    """Rows come in the order of the log: here all near uses lie in its first half, and all far ones in the other."""
    booster = lgb.Booster(model_file=trained[1].folder / MODEL_FILE)
    rows = np.tile(np.random.default_rng(0).normal(20, 20, (100, len(FEATURES))).astype(np.float32), (500, 1))
    target = np.repeat(np.array([0, 6], np.float32), 25_000)
    curve = learning_curve(booster, Sample(rows, target, np.zeros(len(target), np.bool_)))
    error = np.sqrt(np.mean((booster.predict(rows, num_threads=1) - target) ** 2))
    assert len(curve) == booster.num_trees()
    assert curve[-1] == pytest.approx(error, rel=0.05)


def test_held_out_sequences_are_learned_better_than_by_chance(trained: tuple[Path, TrainResult]) -> None:
    _, result = trained
    assert result.metrics["auc_within_4"] > 0.8
    assert result.metrics["r2"] > 0.2
    assert 0.0 < result.metrics["censored"] < 0.5


def test_the_card_says_what_was_trained_on_and_only_that(trained: tuple[Path, TrainResult]) -> None:
    log, result = trained
    held_out = {piece.sequence for piece in result.split.pieces if piece.held_out}
    known = [extent for text in result.model.card.trained_on if (extent := Extent.decode(text))]
    (opened,) = open_logs([log])
    for number in opened.reader.sequence_ids:
        extent = extent_of(opened.reader.read(number), opened.meta)
        assert any(extent.overlaps(seen) for seen in known) is (number not in held_out)


def test_mlflow_holds_parameters_curves_plots_data_and_model(trained: tuple[Path, TrainResult], store: Store) -> None:
    log, result = trained
    client, run_id = store.client, result.run.run_id
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["seed"] == "3"
    assert found.data.metrics["rmse"] == pytest.approx(result.metrics["rmse"])
    assert found.data.tags["data.fingerprint"] == data_fingerprint(open_logs([log]))
    assert [m.step for m in client.get_metric_history(run_id, "curve held-out rmse")] == list(range(1, 9))
    assert found.inputs is not None
    (data,) = found.inputs.dataset_inputs
    assert data.dataset.name == log.name
    plots = {Path(file.path).name for file in client.list_artifacts(run_id, "plots")}
    assert {"calibration.png", "reuse_distance.png", "learning_curve.png", "importance_shap.png"} <= plots
    model = {Path(file.path).name for file in client.list_artifacts(run_id, "model")}
    assert {MODEL_FILE, "MLmodel", "requirements.txt", CARD_FILE} <= model
    assert not any(file.endswith((".pkl", ".pickle", ".joblib")) for file in model)


def test_the_run_is_registered_as_challenger(trained: tuple[Path, TrainResult], store: Store) -> None:
    _, result = trained
    folder = registry.resolve_model(f"models:/{result.version.name}@challenger", store=store.uri)
    assert (folder / MODEL_FILE).read_bytes() == (result.folder / MODEL_FILE).read_bytes()
    assert result.version.metrics["rmse"] == result.metrics["rmse"]
    assert registry.champion(result.version.name, store=store.uri) is None


def test_the_mlmodel_has_a_signature_that_mlflow_reads(trained: tuple[Path, TrainResult]) -> None:
    from mlflow.models import Model

    model = Model.load(str(trained[1].folder))
    assert model.signature is not None
    assert model.signature.inputs.input_names() == [feature.name for feature in FEATURES]
    assert set(model.flavors) == {"lightgbm", "python_function"}


def test_a_log_with_lookahead_gives_a_second_head(tmp_path: Path, store: Store, name: str) -> None:
    result = run(SAMPLE, tmp_path / "out", store, name, rows=60_000)
    assert result.metrics["use_auc"] > 0.8
    assert result.metrics["device_use_auc"] > 0.8
    loaded = ReuseModel.load(result.folder)
    rows = np.random.default_rng(0).normal(5, 5, (32, LOOKAHEAD_WIDTH)).astype(np.float32)
    booster = lgb.Booster(model_file=result.folder / USE_FILE)
    assert np.allclose(loaded.predict_use(rows), booster.predict(rows, num_threads=1), atol=1e-6)
    moved = {
        policy: replay([read_trace(SAMPLE)], policy, ratio=2.0, model=loaded).demand_misses
        for policy in ("learned", "learned-lookahead", "learned-device")
    }
    assert moved["learned-lookahead"] < moved["learned"]
    assert moved["learned-device"] < moved["learned"]


def test_a_log_without_lookahead_gives_one_head(trained: tuple[Path, TrainResult]) -> None:
    assert ReuseModel.load(trained[1].folder).use_text is None
    assert ReuseModel.load(trained[1].folder).device is None
    assert "use_auc" not in trained[1].metrics


def test_a_run_that_a_killed_trainer_left_open_is_closed(
    make_log: MakeLog, tmp_path: Path, store: Store, name: str
) -> None:
    import socket
    import subprocess

    child = subprocess.Popen(["true"])
    child.wait()
    tags = {"hotset.pid": str(child.pid), "hotset.host": socket.gethostname()}
    left = store.client.create_run(store.experiment(name), tags=tags).info.run_id
    run(make_log(), tmp_path / "out", store, name)
    assert store.client.get_run(left).info.status == "KILLED"


def test_a_second_training_replaces_the_folder_and_leaves_no_scraps(
    make_log: MakeLog, tmp_path: Path, store: Store, name: str
) -> None:
    log, out = make_log(), tmp_path / "out"
    first = run(log, out, store, name, seed=1, rows=4000).model.card.version
    stray = out / ".rows-killed"
    stray.mkdir()
    second = run(log, out, store, name, seed=2, rows=4000).model.card.version
    assert first != second == ReuseModel.load(out / "model").card.version
    assert sorted(path.name for path in out.iterdir()) == ["model", "plots"]


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"engine": "spark"}, TrainingError, "unknown engine 'spark'"),
        ({"split": "random"}, TrainingError, "unknown split 'random'"),
        ({"held_out": 1.0}, TrainingError, "held-out share 1.0"),
        ({"scheduler": "tcp://x:1"}, TrainingError, "needs --engine dask"),
        ({"seed": -1}, TrainingError, "--seed"),
        ({"name": "a/b"}, RegistryError, "no model name"),
        ({"name": ""}, RegistryError, "no model name"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    make_log: MakeLog,
    tmp_path: Path,
    store: Store,
    options: dict[str, object],
    error: type[HotsetError],
    complaint: str,
) -> None:
    chosen: dict[str, object] = {"tracking_uri": store.uri, **options}
    with pytest.raises(error, match=complaint) as caught:
        train([make_log(sequences=2, steps=5)], tmp_path / "out", TrainOptions(**chosen))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_output_that_is_a_file_is_named(make_log: MakeLog, tmp_path: Path, store: Store, name: str) -> None:
    (tmp_path / "out").write_text("taken")
    with pytest.raises(TrainingError, match="cannot be used as a folder"):
        run(make_log(), tmp_path / "out", store, name)


def test_a_log_that_is_none_fails_before_anything_is_written(tmp_path: Path, store: Store, name: str) -> None:
    (tmp_path / "log.parquet").write_text(json.dumps({"not": "parquet"}))
    with pytest.raises(TraceError, match=r"log\.parquet"):
        run(tmp_path / "log.parquet", tmp_path / "out", store, name)
    assert not (tmp_path / "out").exists()
