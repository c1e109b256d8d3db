"""A fuzzer as the daemon: it holds the lease and sends nonsense; the tokens stay the same.

Over the real wire it plans and advises as it likes; in memory, where it can be in step with the loop, it advises
after every step.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotset.protos.errors import ProtocolError
from hotset.protos.messages import Ack, Advice, Attach, Geometry, Hello, Plan, SnapshotRequest, Step
from hotset.protos.transport import MemoryServer, ZmqClient
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
        self.acknowledged, self.advised, self.sent = 0, 0, 0
        self.geometry: Geometry | None = None

    def run(self) -> None:
        self.say(Attach(peer="fuzzer", pid=os.getpid()))
        while not self.stop.is_set():
            frames = self.client.receive(0.05)
            if frames is None:
                continue
            message = decode(frames)[1]
            if isinstance(message, Hello):
                self.geometry = message.geometry
                self.attached.set()
            elif isinstance(message, Step):
                assert self.geometry is not None
                self.say(self.plan(message))
                if self.random.integers(0, 4) == 0:
                    self.say(SnapshotRequest())
                    self.say(random_advice(self.random, self.sent, self.geometry))
            elif isinstance(message, Ack):
                self.acknowledged += 1
                self.advised += message.of == "advice" and message.accepted
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


def random_advice(random: np.random.Generator, number: int, geometry: Geometry) -> Advice:
    """Within the bounds of the wire, but not of reason."""
    few, many = int(random.integers(1, geometry.slots)), (1 << 31) - 1
    return Advice(
        number=number,
        concurrency=[None, 1, 2, 3, 1 << 16][random.integers(5)],
        admit_every=[None, 1, 3, 1 << 20][random.integers(4)],
        hot_slots=[None, 1, few, geometry.slots, many][random.integers(5)],
        groups=[random.integers(0, 12, random.integers(5)).tolist() for _ in range(random.integers(4))],
        reason="because",
    )


@contextmanager
def fuzzed(decoder: Decoder, folder: Path, seed: int) -> Iterator[FuzzingDaemon]:
    link = ControlLink(model="toy", geometry=decoder.kv.geometry, builtin_policy="lru", folder=folder)
    decoder.steering = LinkSteering(link, lifetime=4, on_advice=decoder.scheduler.advise)
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


MANY = {**CONFIG, "max_tokens": 600, "max_sequences": 5, "max_running": 3, "hbm_pages": 70}


def tokens_of_many(decoder: Decoder, listen: Callable[[], None] = lambda: None) -> list[list[int]]:
    requests = [decoder.submit(PROMPT[i : i + 30 + i], max_new_tokens=20 + i) for i in range(8)]
    for _ in decoder.run():
        decoder.kv.check_integrity()
        listen()
    decoder.close()
    assert all(r.generation is not None for r in requests)
    return [r.generation.tokens for r in requests if r.generation is not None]


@pytest.fixture(scope="module")
def expected_of_many(model: Any) -> list[list[int]]:
    return tokens_of_many(Decoder(model, None, RuntimeConfig.checked(**MANY)))


@pytest.mark.parametrize("seed", range(2))
def test_tokens_of_a_queue_survive_a_fuzzer(
    model: Any, expected_of_many: list[list[int]], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("rt")
    folder.chmod(0o700)
    decoder = Decoder(model, None, RuntimeConfig.checked(**MANY))
    with fuzzed(decoder, folder, seed) as daemon:
        assert tokens_of_many(decoder) == expected_of_many
        assert daemon.advised > 0


@pytest.mark.parametrize("seed", range(3))
def test_tokens_of_a_queue_survive_advice_after_every_step(
    model: Any, expected_of_many: list[list[int]], seed: int
) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**MANY))
    server, geometry = MemoryServer(), decoder.kv.geometry
    link = ControlLink(model="toy", geometry=geometry, builtin_policy="lru", transport=server,
                       capacity=decoder.scheduler.capacity)  # fmt: skip
    decoder.steering = LinkSteering(link, lifetime=4, on_advice=decoder.scheduler.advise)
    client, random, number = server.connect(), np.random.default_rng(seed), 2
    acks: list[Ack] = []
    client.send(encode(Attach(peer="fuzzer", pid=1), 1))
    while not link.attached:
        time.sleep(0.001)

    def listen() -> None:
        nonlocal number
        while (frames := client.receive(0)) is not None:
            message = decode(frames)[1]
            acks.extend([message] if isinstance(message, Ack) else [])
            if isinstance(message, Step):
                assert message.stats.hot_slots <= geometry.slots
        client.send(encode(random_advice(random, number, geometry), number))
        number += 1

    assert tokens_of_many(decoder, listen) == expected_of_many
    assert len(acks) > 20
    assert all(a.of == "advice" and a.accepted for a in acks)
    assert {"raised", "lowered"} <= {word for a in acks for word in a.reason.split()}


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
