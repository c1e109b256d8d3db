"""Which backend decodes: by the device that the model is on."""

from __future__ import annotations

from typing import Any

import torch

from hotset.protos.errors import ConfigError
from hotset.runtime.backing import BackingStore
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.gpu.backing import DeviceBacking
from hotset.runtime.gpu.device import CudaDevice, Device
from hotset.runtime.gpu.pinned import PinnedTier, Progress
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.gpu.untiered import UntieredResidency
from hotset.runtime.host_link import HostLink
from hotset.runtime.residency import ResidencyManager
from hotset.runtime.shape import ModelShape
from hotset.runtime.tiers import DiskTier, HostTier


def check_device(name: str) -> None:
    """Raise ConfigError unless this machine has the torch device `name`."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"no device is called {name!r}; give --device cpu or --device cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("this machine has no CUDA device, or this torch cannot use it; give --device cpu")
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"cannot decode on {name!r}; give --device cpu or --device cuda")


def device_for(place: torch.device) -> Device | None:
    """The device of the GPU backend where `place` is one; None for the CPU backend."""
    return CudaDevice(place) if place.type == "cuda" else None


def make_manager(
    shape: ModelShape, config: RuntimeConfig, device: Device | None, progress: Progress
) -> ResidencyManager:
    """The residency manager for a model. Raises ConfigError for a pool too small, CapacityError for want of memory."""
    lanes = shape.layers * shape.kv_heads
    slots, pages = config.slots(shape.layers, shape.kv_heads), config.groups * lanes
    smallest = config.smallest_pool(shape.layers, shape.kv_heads)
    if slots < min(smallest, pages):
        raise ConfigError(
            f"a hot pool of {slots} pages cannot decode {config.running} sequences: {smallest} are the least; "
            "raise the HBM budget, or lower --selected or --max-running"
        )
    if not config.tiered:
        slots = pages
    row_shape = (2, config.page_size, shape.head_dim)
    frames = min(pages, config.host_pages or pages)
    disk = DiskTier(pages, row_shape, shape.dtype, config.disk_dir) if config.disk_dir else None
    sizes: dict[str, Any] = {
        "slots": slots, "groups": config.groups, "layers": shape.layers, "kv_heads": shape.kv_heads,
        "row_shape": row_shape, "dtype": shape.dtype, "policy": config.policy,
    }  # fmt: skip
    if device is None:
        if not config.tiered:
            raise ConfigError("a decode on a CPU is always tiered; give it a pool for everything instead")
        host = HostTier(frames, row_shape, shape.dtype)
        link = HostLink(config.link_gbps, config.link_latency_us) if config.link_gbps else None
        return ResidencyManager(**sizes, backing=BackingStore(pages, host, disk), link=link)
    if config.link_gbps:
        raise ConfigError("--link-gbps slows the link of a decode on a CPU; leave it out where the link is real")
    pinned = PinnedTier(frames if config.tiered else 1, row_shape, shape.dtype, device, progress=progress)
    kind = DeviceResidency if config.tiered else UntieredResidency
    return kind(**sizes, backing=DeviceBacking(pages, pinned, disk, device), device=device)
