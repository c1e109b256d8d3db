"""What a GPU would refuse, found without one: tensors of both worlds in one op, and waits inside a step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_kit import INTERPRETED
from two_worlds import TwoWorlds, WorldsMixedError

from hotset.kernels.dispatch import interpreting
from hotset.protos.messages import Advice, Message, Step
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.gpu.captured import WARM_UPS
from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.residency import ResidencyManager
from hotset.runtime.steering import Steering

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="Triton compiles here, so it cannot interpret as well")
OPTIONS = {"page_size": 2, "selected": 3, "recent": 1, "max_tokens": 60, "max_sequences": 2, "prefill_chunk": 8,
           "hbm_pages": 30}  # fmt: skip


class Planner(Steering):
    """Steers each step and hears all messages."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.told: list[int] = []

    @property
    def attached(self) -> bool:
        return True

    def publish(self, message: Message) -> None:
        self.heard.append(message)

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        pages = torch.from_numpy(np.arange(3 * epoch, 3 * epoch + 9, dtype=np.int32))
        none = torch.zeros(9, dtype=torch.int64)
        manager.follow((pages, none, torch.rand(9)), (pages, none), epoch_tick=manager.tick(),
                       until_tick=manager.tick() + 8, tell=lambda n, _: self.told.append(n))  # fmt: skip


def opened(device: TwoWorlds, model: Any, **options: Any) -> Decoder:
    model = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        device.watch.adopt(tensor)
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**OPTIONS, **options}), device=device)
    decoder.open(list(range(3, 16)), max_new_tokens=6)
    decoder.open(list(range(20, 29)), max_new_tokens=6)
    return decoder


@pytest.fixture
def small(make_model: Callable[..., Any]) -> Any:
    return make_model(num_hidden_layers=1)


def test_a_decode_keeps_the_worlds_apart_and_its_steps_never_wait(small: Any) -> None:
    """Prefill, warm-up, captured steps with plans, seals and events; tails open and pages move all the time."""
    device, planner = TwoWorlds(), Planner()
    with interpreting(), device.watching():
        decoder = opened(device, small)
        decoder.steering = planner
        steps = decoder.steps
        assert isinstance(steps, DeviceSteps)
        for step in range(WARM_UPS + 2):
            device.watch.strict = True
            decoder.step()
            device.watch.strict = False
            assert len(steps.programs) == 1, step
        assert all(program.captured for program in steps.programs.values())
        assert decoder.kv.manager.moved.written_pages > 0
        decoder.scheduler.advise(Advice(number=1, concurrency=1, hot_slots=9))
        decoder.step()
        decoder.close()
    assert len([message for message in planner.heard if isinstance(message, Step)]) == WARM_UPS + 3
    assert sum(planner.told) > 0


def test_with_a_disk_tier_the_worlds_stay_apart_too(small: Any, tmp_path: Path) -> None:
    device = TwoWorlds()
    with interpreting(), device.watching():
        decoder = opened(device, small, host_pages=12, hbm_pages=20, disk_dir=tmp_path)
        decoder.steering = Planner()
        for _ in range(4):
            decoder.step()
        disk = decoder.kv.manager.backing.disk
        assert disk is not None
        assert disk.stats.rows_read > 0
        decoder.close()


def test_the_watch_sees_what_it_should() -> None:
    device = TwoWorlds()
    with device.watching():
        there, here = torch.zeros(3, device=device.place), torch.arange(3)
        with pytest.raises(WorldsMixedError, match="of the device and of the host"):
            there + here
        with pytest.raises(WorldsMixedError, match="numpy"):
            there.numpy()
        assert (there[here] + device.upload(here)).tolist() == [0, 1, 2]
        device.watch.strict = True
        for waits in (lambda: there[here], lambda: int(there[0]), lambda: there[there > 0], there.cpu, there.tolist,
                      there.nonzero, lambda: torch.tensor([1], device=device.place)):  # fmt: skip
            with pytest.raises(WorldsMixedError, match="waits"):
                waits()
        assert int(here[2]) == 2
