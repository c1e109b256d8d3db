"""The GPU backend: the same interface as the CPU's, with kernels, streams, a pinned host pool and captured graphs."""

from hotset.runtime.gpu.device import CudaDevice, Device, Event, InlineDevice, PinError, Stream

__all__ = ["CudaDevice", "Device", "Event", "InlineDevice", "PinError", "Stream"]
