"""A trained reuse model: LightGBM's text model and a card that says what it is for.

A model folder holds `model.txt` (next use: log2 of steps), `card.json` and, if the model knows lookaheads,
`use.txt` (probability that a page is used at this step; columns of `hotset.predictor.lookahead`), and both heads again
for the device, with the columns of `hotset.protos.device_features`: `device.txt` and `device-use.txt`. What a runtime
takes of those two is `device.bin` (`hotset.protos.device_model`), which the card names by SHA-256.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotset.predictor.device.heads import DeviceHeads
from hotset.predictor.forest import Forest
from hotset.predictor.lookahead import WIDTH
from hotset.protos.device_features import DEVICE_FEATURES_HASH
from hotset.protos.errors import ModelError
from hotset.protos.features import FEATURES, FEATURES_HASH
from hotset.protos.forest import sha256

Float32 = npt.NDArray[np.float32]

MODEL_FILE = "model.txt"
USE_FILE = "use.txt"
DEVICE_FILE, DEVICE_USE_FILE = "device.txt", "device-use.txt"
PUSHED_FILE = "device.bin"
CARD_FILE = "card.json"
_VERSION_DIGITS = 16
_MAX_FILE_BYTES = 1 << 28


class ModelCard(BaseModel):
    """What a model is, what it was made from, and the settings that belong to it. Unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str = Field("", description="start of the SHA-256 of all texts; empty: filled in")
    sha256: str = Field("", description="of all texts, one after another; filled in with the version")
    features_hash: str = FEATURES_HASH
    device_features_hash: str = Field(DEVICE_FEATURES_HASH, description="of the heads for the device, if there are any")
    device_sha256: str = Field("", description="of `device.bin`; filled in where there are heads for the device")
    trained: int = Field(0, ge=0, description="when its training began, in seconds since 1970; 0 if unknown")
    params: dict[str, float | int | str | bool] = Field(default_factory=dict)
    trained_on: tuple[str, ...] = Field((), description="fingerprints of the data")
    metrics: dict[str, float] = Field(default_factory=dict)
    prefetch_threshold: float = Field(2.0, description="prefetch pages whose predicted log2 of steps is below this")
    use_thresholds: dict[str, float] = Field(
        default_factory=dict, description="least probability of use at which a lookahead page is prefetched, by budget"
    )
    feature_quantiles: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="of the training rows, for drift: rising inner borders of equal shares"
    )
    feature_shares: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="share of training rows up to each distinct quantile, above all, and NaN"
    )
    missing: dict[str, float] = Field(default_factory=dict, description="share of NaN of the training rows, by feature")
    error: float | None = Field(None, description="mean squared error on held-out rows, in squared log2 steps")


class ReuseModel:
    """Immutable. Larger predictions are colder pages; comparable between lanes and sequences."""

    def __init__(
        self, card: ModelCard, text: str, use_text: str | None = None, device: DeviceHeads | None = None
    ) -> None:
        """Raises ModelError if the card is for other features, or the text is not what the card names."""
        texts = text + (use_text or "") + (device.value_text + device.use_text if device else "")
        digest = hashlib.sha256(texts.encode()).hexdigest()
        if card.features_hash != FEATURES_HASH:
            raise ModelError("the model was trained for other features than this version computes; train it anew")
        if device and card.device_features_hash != DEVICE_FEATURES_HASH:
            raise ModelError("the device's heads were trained for other features than this version keeps; train anew")
        if card.version and not (digest.startswith(card.version) and card.sha256 in ("", digest)):
            raise ModelError(f"the model text is not the one of the card (version {card.version}): damaged?")
        self.pushed = device.model.to_bytes() if device else b""
        """What a `model` message carries; empty without heads for the device."""
        filled = {
            "version": card.version or digest[:_VERSION_DIGITS], "sha256": digest,
            "device_sha256": sha256(self.pushed) if self.pushed else "",
        }  # fmt: skip
        self.card = card.model_copy(update=filled)
        self.text = text
        self.use_text = use_text
        self.device = device
        self.forest = Forest.from_text(text, FEATURES_HASH)
        self.use_forest = Forest.from_text(use_text) if use_text is not None else None
        _check_width(self.forest, len(FEATURES))
        if self.use_forest is not None:
            _check_width(self.use_forest, WIDTH)

    def predict(self, rows: Float32) -> Float32:
        """Values [m] of rows [m, F]: predicted log2 of steps to the next use."""
        return self.forest.predict(rows)

    def predict_use(self, rows: Float32) -> Float32:
        """Probabilities [m] of use at this step, for rows of `hotset.predictor.lookahead`.

        Raises ModelError if the model was trained without lookahead.
        """
        if self.use_forest is None:
            raise ModelError("the model knows no lookahead; train it on a log that recorded lookahead ranks")
        return self.use_forest.predict(rows)

    def save(self, folder: Path) -> None:
        """Write the folder; files of an older model in it are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_text(self.text, encoding="utf-8")
        device = (self.device.value_text, self.device.use_text) if self.device else (None, None)
        optional = {USE_FILE: self.use_text, DEVICE_FILE: device[0], DEVICE_USE_FILE: device[1]}
        for name, text in optional.items():
            if text is not None:
                (folder / name).write_text(text, encoding="utf-8")
            else:
                (folder / name).unlink(missing_ok=True)
        if self.pushed:
            (folder / PUSHED_FILE).write_bytes(self.pushed)
        else:
            (folder / PUSHED_FILE).unlink(missing_ok=True)
        (folder / CARD_FILE).write_text(self.card.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> ReuseModel:
        """Read a model folder. Raises ModelError if it is missing, damaged or for other features."""
        folder = Path(path)
        try:
            card = ModelCard.model_validate_json(_read(folder / CARD_FILE))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ModelError(f"{folder / CARD_FILE}: not a model card: {first['msg']}") from None
        if len(card.version) < _VERSION_DIGITS:
            raise ModelError(f"{folder / CARD_FILE}: names no SHA-256 that the model could be checked by; save it anew")
        use = _read(folder / USE_FILE) if (folder / USE_FILE).is_file() else None
        on_device = (folder / DEVICE_FILE).is_file() or (folder / DEVICE_USE_FILE).is_file()
        try:
            device = DeviceHeads(_read(folder / DEVICE_FILE), _read(folder / DEVICE_USE_FILE)) if on_device else None
            model = cls(card, _read(folder / MODEL_FILE), use, device)
            _check_pushed(folder / PUSHED_FILE, card.device_sha256, model.card.device_sha256)
            return model
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from None


def _check_pushed(path: Path, promised: str, made: str) -> None:
    """Models of older versions promise nothing: what is pushed is made of their texts then."""
    if promised and not (promised == made == sha256(_read_bytes(path))):
        raise ModelError(f"{path.name} is not what the card names by SHA-256 {promised[:16]}: damaged?")


def _check_width(forest: Forest, columns: int) -> None:
    if forest.features != columns:
        raise ModelError(f"the model takes {forest.features} columns, this version computes {columns}")


def _read(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not text; a model is LightGBM's native text format") from None


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ModelError(f"{path}: {path.stat().st_size} bytes are too many for a model")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}; is it a model folder?") from None
