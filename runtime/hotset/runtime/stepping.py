"""Which kind of steps a KV cache decodes by: those of its backend."""

from __future__ import annotations

from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.huggingface import Forward
from hotset.runtime.lookahead import Lookahead
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.selectors import Selector
from hotset.runtime.steps import HostSteps, Steps


def make_steps(kv: PagedKV, forward: Forward, selector: Selector, ahead: Lookahead | None) -> Steps:
    """The steps of the CPU backend or of a device."""
    if kv.device is None:
        return HostSteps(kv, forward, selector, ahead)
    return DeviceSteps(kv, forward, selector, ahead, graphs=kv.config.graphs)
