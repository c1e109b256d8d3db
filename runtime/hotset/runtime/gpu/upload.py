"""Several host tensors in one copy."""

from __future__ import annotations

import torch

from hotset.runtime.gpu.device import Device
from hotset.runtime.gpu.packing import pack, unpack


def upload_together(device: Device, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Copies of host `tensors` on the device, ordered on the current stream; they share memory that is theirs alone."""
    kinds = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    memory, places = pack(kinds, device.pinned)
    for tensor, place in zip(tensors, places, strict=True):
        place.copy_(tensor)
    return unpack(device.upload(memory), kinds)
