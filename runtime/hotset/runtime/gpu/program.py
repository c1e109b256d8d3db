"""The forward pass of a step for one shape of batch: run as it is until it is warm, then captured once and replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from hotset.kernels.state import SCRATCH_FAILED
from hotset.runtime.gpu.device import Device
from hotset.runtime.gpu.inputs import StepInputs
from hotset.runtime.gpu.passes import DevicePass

WARM_UPS = 2
"""Passes before one is captured: kernels compile, libraries choose theirs and take their memory."""
logger = logging.getLogger(__name__)


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
        self.inputs, self.captures = inputs, captures
        self.seconds = 0.0
        """that the host waited for the last pass, once it had launched it"""
        self._device, self._make, self._compute = device, make, compute
        self._passes = 0
        self._shape: object = None
        self._replay: Callable[[], Outcome] | None = None

    @property
    def captured(self) -> bool:
        """Whether the pass is replayed from a graph."""
        return self._replay is not None

    @property
    def warming(self) -> bool:
        """Whether the last pass was one of those before the capture, or the first after it."""
        return self._passes <= WARM_UPS + self.captured

    def __call__(self, shape: object = None) -> Outcome:
        """One pass over what `inputs` holds; the host does not wait for it.

        A graph holds for one `shape` of what the pass does beside the model; with another one it is made anew.
        """
        if shape != self._shape:
            self._shape, self._passes, self._replay = shape, 0, None
        if self._replay is None and self.captures and self._passes >= WARM_UPS:
            self._capture()
        self._passes += 1
        return self._body() if self._replay is None else self._replay()

    def _capture(self) -> None:
        try:
            self._replay = self._device.capture(self._body)
        except RuntimeError as error:
            self.captures = False
            logger.warning("this model's decode step cannot be captured and runs uncaptured: %s", error)

    def _body(self) -> Outcome:
        done = self._make(self.inputs)
        logits = self._compute(done, self.inputs.tokens.long(), self.inputs.positions.long())
        manager = done.manager
        failed = manager.state.scratch[SCRATCH_FAILED : SCRATCH_FAILED + 1].long()
        return Outcome(done, logits, torch.cat((logits.argmax(-1), failed, manager.counts)))
