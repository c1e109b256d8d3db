"""The model that decides inside the step: what a daemon pushed, checked, on the device."""

from __future__ import annotations

import torch

from hotset.kernels.forest import DeviceForest
from hotset.protos.device_model import DeviceModel
from hotset.protos.errors import ModelError
from hotset.protos.forest import sha256
from hotset.protos.messages import Model


class DeviceHeads:
    """Both forests of the model in force, if there is one. Call between steps."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self.value: DeviceForest | None = None
        self.use: DeviceForest | None = None
        self.version, self._trained = "", 0
        self.tables = 0
        """counts up when other tables hold the forests, which a captured graph must be made anew for"""

    def take(self, pushed: Model) -> str:
        """Put `pushed` in force, or say why not (docs/protocol.md, `model`): then nothing changes.

        One without bytes takes back what is in force.
        """
        data = pushed.forest.tobytes()
        if sha256(data) != pushed.sha256:
            return "corrupt: the bytes do not have the hash that the message promises"
        if not data:
            self._drop()
            return ""
        try:
            parsed = DeviceModel.parse(data)
        except ModelError as error:
            return f"corrupt: {error}"
        try:
            parsed.checked()
        except ModelError as error:
            return f"foreign: {error}"
        if 0 < pushed.trained < self._trained and not pushed.rollback:
            return f"stale: trained at {pushed.trained}, version {self.version} in force at {self._trained}"
        try:
            value, use = self._uploaded(parsed)
        except ModelError as error:
            return f"too_large: {error}"
        before = self.value, self.use
        self.value, self.use = _swapped(self.value, value), _swapped(self.use, use)
        self.tables += self.value is not before[0] or self.use is not before[1]
        self.version, self._trained = pushed.version, pushed.trained
        return ""

    def _drop(self) -> None:
        self.tables += self.use is not None
        self.value = self.use = None
        self.version, self._trained = "", 0

    def _uploaded(self, model: DeviceModel) -> tuple[DeviceForest, DeviceForest]:
        value = DeviceForest.upload(model.value, device=self._device, least=self.value.plan if self.value else None)
        use = DeviceForest.upload(model.use, device=self._device, least=self.use.plan if self.use else None)
        return value, use


def _swapped(old: DeviceForest | None, new: DeviceForest) -> DeviceForest:
    """In place if the sizes let it, so that captured graphs go on."""
    if old is None or old.plan != new.plan:
        return new
    old.replace(new)
    return old
