"""Model files that are damaged or gone: at start, when the daemon starts again, and when a training is swapped in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from sandbox import Hotset, planned, until
from witness import Witness

from hotset.predictor import recipe
from hotset.predictor.model import MODEL_FILE, ModelCard, ReuseModel
from hotset.protos.features import FEATURES

pytestmark = pytest.mark.e2e
JOB = """
import json, os, pathlib, shutil, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
shutil.copytree(os.environ["GOOD_MODEL"], out / "model")
(out / "result.json").write_text(json.dumps({"model": "model", "promoted": True, "version": "1"}))
number = int(out.name.partition("-")[2])
if number == 1:
    text = out / "model" / "model.txt"
    text.write_text(text.read_text()[:-700])
elif number == 2:
    shutil.rmtree(out / "model")
elif number == 3:
    (out / "result.json").write_text('{"model": 7')
elif number == 4:
    sys.exit("no room left")
"""
"""Stands in for the training job, with what a bad disk would leave: the first four trainings fail, each in its way."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A good model folder."""
    rows = np.random.default_rng(0).normal(size=(400, len(FEATURES))).astype(np.float32)
    params = recipe.lightgbm_params() | {"objective": "regression", "min_data_in_leaf": 5}
    text = lgb.train(params, lgb.Dataset(rows, rows[:, 0].copy()), 4).model_to_string()
    ReuseModel(ModelCard(), text).save(tmp_path / "model")
    # The version that the card names is the hash of the text.
    saved = ReuseModel.load(tmp_path / "model")
    saved.save(tmp_path / "model")
    return tmp_path / "model"


def _truncate(folder: Path) -> None:
    text = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).write_bytes(text[: len(text) // 2])


def _flip(folder: Path) -> None:
    text = bytearray((folder / MODEL_FILE).read_bytes())
    text[len(text) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(text)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": _truncate,
    "one bit": _flip,
    "no text": lambda folder: (folder / MODEL_FILE).unlink(),
}


def test_at_start_and_when_started_again(
    hotset: Hotset, model: Path, trace: Path, tmp_path: Path, witness: Callable[[str], Witness]
) -> None:
    """A daemon with a bad model does not start, and says why on one line; with the good one again, it steers."""
    engine = hotset.start("play", trace, "--speed", 50, "--times", 200, "--check")
    ear = witness(hotset.endpoint(engine))
    first = hotset.daemon("--model", model)
    until(lambda: hotset.statuses() and hotset.statuses()[0]["source"] == "learned")
    ear.hears(plans=5)
    first.kill()
    first.wait()
    for number, (name, damage) in enumerate(DAMAGE.items()):
        bad = tmp_path / f"bad{number}"
        shutil.copytree(model, bad)
        damage(bad)
        refused = hotset.run("daemon", "--log-dir", hotset.logs, "--model", bad)
        assert refused.returncode not in (0, 1), name
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        assert str(bad) in refused.stderr or "damaged" in refused.stderr, refused.stderr
    ear.hears(steps=10)
    hotset.daemon("--model", model)
    until(lambda: len(hotset.statuses()) == 2 and hotset.statuses()[1]["source"] == "learned")
    ear.hears(plans=10)


def test_at_the_swap(
    hotset: Hotset, model: Path, trace: Path, tmp_path: Path, witness: Callable[[str], Witness]
) -> None:
    """Four trainings leave something useless; each time the heuristic goes on, and the fifth model is swapped in."""
    shim = tmp_path / "shim" / "hotset" / "training"
    shim.mkdir(parents=True)
    (shim / "job.py").write_text(JOB)
    path = f"{tmp_path / 'shim'}:{os.environ.get('PYTHONPATH', '')}"
    options = ("--train", "--train-after", 20, "--train-every", 20, "--swap", "always")
    daemon = hotset.daemon(*options, PYTHONPATH=path, GOOD_MODEL=str(model))
    engine = hotset.start("play", trace, "--speed", 60, "--times", 200, "--check")
    ear = witness(hotset.endpoint(engine))
    until(lambda: hotset.statuses() and hotset.statuses()[0]["counters"]["swaps"])
    ear.hears(plans=10)
    (status,) = hotset.statuses()
    phases = [phase["phase"] for phase in status["phases"]]
    assert phases[2:12] == ["training_started", "training_failed"] * 4 + ["training_started", "training_finished"]
    reasons = [str(phase["reason"]) for phase in status["phases"] if phase["phase"] == "training_failed"]
    for reason, words in zip(reasons, ("model", "cannot be read", "result.json", "no room left"), strict=True):
        assert words in reason
    assert planned(status) > 10
    assert daemon.poll() is None
