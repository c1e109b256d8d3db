"""What steps of one shape of batch launch: the forward pass, and what follows it; both captured once they are warm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from hotset.kernels.state import SCRATCH_FAILED
from hotset.runtime.gpu.behind import Behind
from hotset.runtime.gpu.captured import Captured
from hotset.runtime.gpu.changes import Changes
from hotset.runtime.gpu.device import Device
from hotset.runtime.gpu.inputs import StepInputs
from hotset.runtime.gpu.passes import DevicePass


class Outcome(NamedTuple):
    """What a pass leaves on the device, for padded rows too."""

    done: DevicePass
    logits: torch.Tensor  # [rows, vocabulary]
    answer: torch.Tensor  # [rows + 1 + COUNTS] int64: greedy tokens, pages without a slot, the manager's counts


class Program:
    """`make` begins a pass over `inputs`, `compute` gives its logits [rows, vocabulary]."""

    def __init__(
        self,
        device: Device,
        inputs: StepInputs,
        make: Callable[[StepInputs], DevicePass],
        compute: Callable[[DevicePass, torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        captures: bool,
    ) -> None:
        self.inputs = inputs
        self.seconds = 0.0
        """that the host waited for the last pass, once it had launched it"""
        self.behind = Behind(device, captures=captures)
        self._make, self._compute = make, compute
        self._pass = Captured[Outcome](device, "this model's decode step", captures=captures)

    @property
    def captured(self) -> bool:
        """Whether the pass is replayed from a graph."""
        return self._pass.captured

    @property
    def warming(self) -> bool:
        """Whether what the last step launched will be replayed from graphs that were not there yet."""
        return self._pass.warming or self.behind.warming

    def __call__(self, shape: object = None) -> Outcome:
        """One pass over what `inputs` holds; the host does not wait for it.

        A graph holds for one `shape` of what the pass does beside the model; with another one it is made anew.
        """
        return self._pass(shape, self._body)

    def leave(self, done: DevicePass, changes: Changes, *, tell: bool) -> None:
        """Launch what follows the pass."""
        self.behind(done, changes, captured=self.captured, tell=tell)

    def _body(self) -> Outcome:
        done = self._make(self.inputs)
        logits = self._compute(done, self.inputs.tokens.long(), self.inputs.positions.long())
        manager = done.manager
        failed = manager.state.scratch[SCRATCH_FAILED : SCRATCH_FAILED + 1].long()
        return Outcome(done, logits, torch.cat((logits.argmax(-1), failed, manager.counts)))
