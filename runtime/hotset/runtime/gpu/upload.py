"""Several host tensors in one copy: on a device each copy of a few KiB costs as much as one of all of them."""

from __future__ import annotations

import torch

from hotset.runtime.gpu.device import Device

_ALIGNED = 16
"""bytes; kernels are compiled anew for data that is aligned to less"""


def upload_together(device: Device, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Copies of host `tensors` on the device, ordered on the current stream; they share memory that is theirs alone."""
    places, size = [], 0
    for tensor in tensors:
        places.append(slice(size, size + tensor.nbytes))
        size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
    packed = device.pinned((size,), torch.uint8)
    for tensor, place in zip(tensors, places, strict=True):
        packed[place].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    there = device.upload(packed)
    return [there[place].view(t.dtype).view(t.shape) for t, place in zip(tensors, places, strict=True)]
