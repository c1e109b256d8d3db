"""The device's two heads, as LightGBM texts and as forests."""

from __future__ import annotations

from hotset.predictor.device.words import Float32
from hotset.predictor.forest import Forest
from hotset.protos.device_features import DEVICE_FEATURES_HASH, PAGE_FEATURES_HASH
from hotset.protos.device_model import DeviceModel


class DeviceHeads:
    """Immutable. `predict` takes rows of PAGE_FEATURES, `predict_use` rows of DEVICE_FEATURES."""

    def __init__(self, value_text: str, use_text: str) -> None:
        """Raises ModelError for what is not served, or is for another number of columns."""
        self.value_text, self.use_text = value_text, use_text
        self._value = Forest.from_text(value_text, PAGE_FEATURES_HASH)
        self._use = Forest.from_text(use_text, DEVICE_FEATURES_HASH)
        self.model = DeviceModel(self._value.to_arrays(), self._use.to_arrays()).checked()

    def predict(self, rows: Float32) -> Float32:
        """Predicted log2 of steps to the next use, [m]."""
        return self._value.predict(rows)

    def predict_use(self, rows: Float32) -> Float32:
        """Probabilities [m] of use at this step."""
        return self._use.predict(rows)
