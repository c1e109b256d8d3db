"""Model folders: what is saved is what is loaded, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest

from hotset.predictor import recipe
from hotset.predictor.device import DeviceHeads
from hotset.predictor.forest import Forest
from hotset.predictor.lookahead import WIDTH
from hotset.predictor.model import CARD_FILE, DEVICE_USE_FILE, MODEL_FILE, PUSHED_FILE, USE_FILE, ModelCard, ReuseModel
from hotset.protos.device_features import DEVICE_FEATURES, DEVICE_FEATURES_HASH, PAGE_FEATURES
from hotset.protos.device_model import DeviceModel
from hotset.protos.errors import ModelError
from hotset.protos.features import FEATURES

ROWS = np.random.default_rng(0).normal(size=(400, WIDTH)).astype(np.float32)


def _text(columns: int, objective: str) -> str:
    rows = ROWS[:, :columns]
    label = (rows[:, 0] > 0).astype(np.float64)
    params = recipe.lightgbm_params() | {"objective": objective, "min_data_in_leaf": 5}
    return lgb.train(params, lgb.Dataset(rows, label), 4).model_to_string()


TEXT, USE_TEXT = _text(len(FEATURES), "regression"), _text(WIDTH, "binary")
DEVICE = DeviceHeads(_text(len(PAGE_FEATURES), "regression"), _text(len(DEVICE_FEATURES), "binary"))


def test_both_heads_round_trip(tmp_path: Path) -> None:
    model = ReuseModel(ModelCard(metrics={"rmse": 1.5}, prefetch_threshold=0.25), TEXT, USE_TEXT)
    model.save(tmp_path / "m")
    again = ReuseModel.load(tmp_path / "m")
    assert again.card == model.card
    rows = ROWS[:, : len(FEATURES)]
    np.testing.assert_array_equal(again.predict(rows), model.predict(rows))
    np.testing.assert_array_equal(again.predict_use(ROWS), model.predict_use(ROWS))
    assert 0.0 <= float(again.predict_use(ROWS).min()) <= float(again.predict_use(ROWS).max()) <= 1.0


def test_heads_for_the_device_round_trip(tmp_path: Path) -> None:
    ReuseModel(ModelCard(), TEXT, USE_TEXT, DEVICE).save(tmp_path)
    again = ReuseModel.load(tmp_path).device
    assert again is not None
    rows = ROWS[:, : len(DEVICE_FEATURES)]
    np.testing.assert_array_equal(again.predict_use(rows), DEVICE.predict_use(rows))
    pushed = DeviceModel.from_bytes((tmp_path / PUSHED_FILE).read_bytes())
    np.testing.assert_array_equal(Forest(pushed.use).predict(rows), DEVICE.predict_use(rows))
    ReuseModel(ModelCard(), TEXT).save(tmp_path)
    assert ReuseModel.load(tmp_path).device is None
    assert not (tmp_path / PUSHED_FILE).exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("change", "card"),
        ("remove", "cannot be read"),
        ("hash", "other features"),
        ("flip", r"device\.bin is not what the card names"),
        ("unpushed", r"device\.bin: cannot be read"),
    ],
)
def test_damaged_heads_for_the_device_are_refused(damage: str, reason: str, tmp_path: Path) -> None:
    ReuseModel(ModelCard(), TEXT, None, DEVICE).save(tmp_path)
    file, card = tmp_path / DEVICE_USE_FILE, tmp_path / CARD_FILE
    if damage == "change":
        file.write_text(DEVICE.use_text + "\n")
    elif damage == "remove":
        file.unlink()
    elif damage == "unpushed":
        (tmp_path / PUSHED_FILE).unlink()
    elif damage == "flip":
        data = bytearray((tmp_path / PUSHED_FILE).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / PUSHED_FILE).write_bytes(data)
    else:
        card.write_text(card.read_text().replace(DEVICE_FEATURES_HASH, "0" * 64))
    with pytest.raises(ModelError, match=reason):
        ReuseModel.load(tmp_path)


def test_a_model_of_before_device_bin_is_still_served(tmp_path: Path) -> None:
    model = ReuseModel(ModelCard(), TEXT, None, DEVICE)
    model.save(tmp_path)
    (tmp_path / PUSHED_FILE).unlink()
    card = json.loads((tmp_path / CARD_FILE).read_text())
    del card["device_sha256"]
    (tmp_path / CARD_FILE).write_text(json.dumps(card))
    assert ReuseModel.load(tmp_path).pushed == model.pushed != b""


def test_saving_over_an_older_model_leaves_no_head_behind(tmp_path: Path) -> None:
    ReuseModel(ModelCard(), TEXT, USE_TEXT).save(tmp_path)
    ReuseModel(ModelCard(), TEXT).save(tmp_path)
    assert not (tmp_path / USE_FILE).exists()
    with pytest.raises(ModelError, match="lookahead"):
        ReuseModel.load(tmp_path).predict_use(ROWS)


def test_another_text_than_the_card_names_is_refused(tmp_path: Path) -> None:
    ReuseModel(ModelCard(), TEXT).save(tmp_path)
    (tmp_path / MODEL_FILE).write_text(TEXT.replace("leaf_value=", "leaf_value=9", 1))
    with pytest.raises(ModelError, match="card"):
        ReuseModel.load(tmp_path)


def test_a_changed_use_head_is_refused(tmp_path: Path) -> None:
    ReuseModel(ModelCard(), TEXT, USE_TEXT).save(tmp_path)
    (tmp_path / USE_FILE).write_text(USE_TEXT.replace("leaf_value=", "leaf_value=9", 1))
    with pytest.raises(ModelError, match="card"):
        ReuseModel.load(tmp_path)


def test_a_model_for_other_features_is_refused(tmp_path: Path) -> None:
    ReuseModel(ModelCard(), TEXT).save(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text()) | {"features_hash": "0" * 64}
    (tmp_path / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(ModelError, match="other features"):
        ReuseModel.load(tmp_path)


def test_a_model_of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match="columns"):
        ReuseModel(ModelCard(), USE_TEXT)
    with pytest.raises(ModelError, match="columns"):
        ReuseModel(ModelCard(), TEXT, TEXT)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"metrics": 3}', b"\xff\xfe"])
def test_damaged_cards_are_refused(tmp_path: Path, content: bytes) -> None:
    ReuseModel(ModelCard(), TEXT).save(tmp_path)
    (tmp_path / CARD_FILE).write_bytes(content)
    with pytest.raises(ModelError):
        ReuseModel.load(tmp_path)


def test_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is it a model folder"):
        ReuseModel.load(tmp_path / "none")
