"""Which kind of steps a KV cache decodes by: those of its backend."""

from __future__ import annotations

from hotset.protos.errors import ConfigError
from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.huggingface import Forward
from hotset.runtime.lookahead import Lookahead
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.selectors import Selector
from hotset.runtime.steps import HostSteps, Steps


def make_steps(kv: PagedKV, forward: Forward, selector: Selector, ahead: Lookahead | None) -> Steps:
    """The steps of the CPU backend or of a device. Raises ConfigError for a device's that should look ahead."""
    if kv.device is None:
        return HostSteps(kv, forward, selector, ahead)
    if ahead is not None:
        raise ConfigError("looking ahead inside a step is for a decode on a CPU so far; leave out --lookahead")
    return DeviceSteps(kv, forward, selector, graphs=kv.config.graphs)
