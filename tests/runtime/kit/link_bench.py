"""A control link and the peers that talk to it, over the in-memory transport or a real socket."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hotset.protos.messages import (
    Ack,
    Attach,
    Geometry,
    Heartbeat,
    Hello,
    Lookahead,
    Message,
    Plan,
    Snapshot,
    Step,
)
from hotset.protos.transport import ClientTransport, MemoryServer, ZmqClient
from hotset.protos.wire import Frame, decode, encode
from hotset.runtime.link import ControlLink, LinkLimits

WAIT = 30.0
GOLDEN = Path(__file__).parents[2] / "golden" / "protocol"
M = TypeVar("M", bound=Message)
GEOMETRY = Geometry(layers=2, kv_heads=1, page_size=4, selected=2, candidates=4, page_bytes=64, slots=8, groups=100)


class Peer:
    """The other end of a link."""

    def __init__(self, client: ClientTransport) -> None:
        self.client = client
        # Over a socket the kernel knows better.
        self.pid = os.getpid() if isinstance(client, ZmqClient) else 1
        self.numbers: list[int] = []
        self._sent = 0

    def send(self, message: Message) -> None:
        self._sent += 1
        assert self.client.send(encode(message, self._sent))

    def send_frames(self, *frames: Frame) -> None:
        assert self.client.send(list(frames))

    def attach(self, role: str = "controller", name: str = "peer") -> Hello:
        self.send(Attach.model_validate({"peer": name, "pid": self.pid, "role": role}))
        return self.expect(Hello)

    def receive(self, timeout: float = WAIT) -> Message | None:
        frames = self.client.receive(timeout)
        if frames is None:
            return None
        number, message = decode(frames)
        self.numbers.append(number)
        return message

    def expect(self, kind: type[M]) -> M:
        message = self.receive()
        assert isinstance(message, kind), message
        return message

    def barrier(self) -> None:
        """Return once everything sent so far was handled."""
        self.send(Heartbeat())
        assert self.expect(Ack).of == "heartbeat"


def make_plan(number: int = 1, entries: int = 1) -> Plan:
    return Plan(
        number=number, epoch=1, deadline=5, source="heuristic",
        pages=np.arange(entries, dtype="<i4"), generations=np.zeros(entries, "<u4"), values=np.ones(entries, "<f4"),
        prefetch=np.zeros(0, "<i4"), prefetch_generations=np.zeros(0, "<u4"),
    )  # fmt: skip


def make_lookahead(number: int) -> Lookahead:
    return Lookahead(
        number=number, distance=np.array([0, 1], "|i1"), least=np.array([np.nan, 0.5], "<f4"),
        pages=np.array([-1, 9], "<i4"),
    )  # fmt: skip


def make_step(epoch: int, width: int = 4) -> Step:
    return Step(
        epoch=epoch, sequences=[1], lengths=np.ones(1, "<i4"), sequence_steps=np.zeros(1, "<i4"),
        candidates=np.zeros((2, width), "<i4"), scores=np.zeros((2, width), "|u1"), flags=np.zeros((2, width), "|u1"),
        new_sequence=np.zeros(0, "<i8"), new_group=np.zeros(0, "<i4"), new_generation=np.zeros(0, "<u4"),
        loaded=np.zeros(0, "<i4"), evicted=np.zeros(0, "<i4"),
    )  # fmt: skip


def make_snapshot(epoch: int) -> Snapshot:
    return Snapshot(
        epoch=epoch, sequences=[], prompt_tokens=np.zeros(0, "<i4"), lengths=np.zeros(0, "<i4"),
        sequence_steps=np.zeros(0, "<i4"), offsets=np.zeros(1, "<i4"), groups=np.zeros(0, "<i4"),
        generations=np.zeros(0, "<u4"), resident=np.zeros(0, "<i4"),
    )  # fmt: skip


class Bench:
    """A link over memory and the peers that connect to it."""

    def __init__(self, **limits: Any) -> None:
        self.transport = MemoryServer(high_water_mark=limits.pop("high_water_mark", 64))
        self.link = ControlLink(
            model="m", geometry=GEOMETRY, builtin_policy="ema", transport=self.transport,
            limits=LinkLimits(**limits),
        )  # fmt: skip

    def peer(self) -> Peer:
        return Peer(self.transport.connect())

    def controller(self) -> Peer:
        peer = self.peer()
        assert peer.attach().controller
        return peer


@contextlib.contextmanager
def bench_with(**limits: Any) -> Iterator[Bench]:
    made = Bench(**limits)
    try:
        yield made
    finally:
        made.link.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
