"""A fuzzer as the daemon, over the real wire: it holds the lease and sends nonsense; the tokens stay the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotset.protos.errors import ProtocolError
from hotset.protos.messages import Ack, Advice, Attach, Geometry, Hello, Plan, SnapshotRequest, Step
from hotset.protos.transport import ZmqClient
from hotset.protos.wire import decode, encode
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.link import ControlLink
from hotset.runtime.steering import LinkSteering

PROMPT = [(5 * i) % 89 + 1 for i in range(70)]
CONFIG = {"page_size": 4, "selected": 6, "recent": 2, "max_tokens": 200, "max_sequences": 1, "hbm_pages": 40}
STEPS = 60


class FuzzingDaemon(threading.Thread):
    """Attaches as controller and answers every step with a random plan, stale, absurd or half right."""

    def __init__(self, endpoint: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.client, self.random = ZmqClient(endpoint), np.random.default_rng(seed)
        self.attached, self.stop = threading.Event(), threading.Event()
        self.acknowledged, self.sent = 0, 0
        self.geometry: Geometry | None = None

    def run(self) -> None:
        self.say(Attach(peer="fuzzer", pid=1))
        while not self.stop.is_set():
            frames = self.client.receive(0.05)
            if frames is None:
                continue
            message = decode(frames)[1]
            if isinstance(message, Hello):
                self.geometry = message.geometry
                self.attached.set()
            elif isinstance(message, Step):
                self.say(self.plan(message))
                if self.random.integers(0, 4) == 0:
                    self.say(SnapshotRequest())
                    self.say(Advice(number=self.sent, concurrency=1, reason="because"))
            elif isinstance(message, Ack):
                self.acknowledged += 1
        self.client.close()

    def plan(self, step: Step) -> Plan:
        assert self.geometry is not None
        count, total = int(self.random.integers(0, self.geometry.slots)), self.geometry.groups * self.geometry.lanes
        few = self.geometry.slots - count
        return Plan(
            number=self.sent,
            epoch=max(0, step.epoch + int(self.random.integers(-3, 3))),
            deadline=max(0, step.epoch + int(self.random.integers(-2, 6))),
            source="learned",
            pages=self.random.integers(-2, total + 2, count).astype("<i4"),
            generations=self.random.integers(0, 2, count).astype("<u4"),
            values=self.random.normal(0, 1e6, count).astype("<f4"),
            prefetch=self.random.integers(-2, total + 2, few).astype("<i4"),
            prefetch_generations=np.zeros(few, "<u4"),
        )

    def say(self, message: Any) -> None:
        self.sent += 1
        self.client.send(encode(message, self.sent))


@contextmanager
def fuzzed(decoder: Decoder, folder: Path, seed: int) -> Iterator[FuzzingDaemon]:
    link = ControlLink(model="toy", geometry=decoder.kv.geometry, builtin_policy="lru", folder=folder)
    decoder.steering = LinkSteering(link, lifetime=4)
    daemon = FuzzingDaemon(link.endpoint, seed)
    daemon.start()
    assert daemon.attached.wait(10)
    yield daemon
    daemon.stop.set()
    daemon.join(10)
    assert not daemon.is_alive()


def tokens(decoder: Decoder) -> list[int]:
    generation = decoder.open(PROMPT, max_new_tokens=STEPS)
    for _ in decoder.run():
        decoder.kv.check_integrity()
    return generation.tokens


@pytest.mark.parametrize("seed", range(3))
def test_tokens_survive_a_fuzzer_that_holds_the_lease(
    model: Any, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    alone = Decoder(model, None, RuntimeConfig.checked(**CONFIG))
    expected = tokens(alone)
    alone.close()
    folder = tmp_path_factory.mktemp("rt")
    folder.chmod(0o700)
    decoder = Decoder(model, None, RuntimeConfig.checked(**CONFIG))
    with fuzzed(decoder, folder, seed) as daemon:
        assert tokens(decoder) == expected
        assert daemon.acknowledged > 0
    moved = decoder.kv.manager.moved
    assert moved.entries_applied > 0
    assert {"out_of_range", "stale_generation"} <= set(moved.entries_rejected)
    decoder.close()


def test_garbage_frames_change_nothing(model: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rt")
    folder.chmod(0o700)
    decoder = Decoder(model, None, RuntimeConfig.checked(**CONFIG))
    random = np.random.default_rng(1)
    with fuzzed(decoder, folder, 0):
        assert isinstance(decoder.steering, LinkSteering)
        client = ZmqClient(decoder.steering.link.endpoint)
        for _ in range(200):
            frames = [random.bytes(int(random.integers(0, 60))) for _ in range(int(random.integers(1, 5)))]
            client.send(frames)
        found = tokens(decoder)
        client.close()
    decoder.close()
    assert len(found) == STEPS
    with pytest.raises(ProtocolError):
        decode([b"plan", b"\0" * 8, b"\xc1"])
