"""A socket of the test's process that looks like a runtime's until it speaks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import zmq
from sandbox import META

from hotset.protos import discovery
from hotset.protos.messages import Geometry, Hello
from hotset.protos.wire import encode


class Liar:
    """Announces itself in the runtime folder as a decode process does."""

    def __init__(self, folder: Path, number: int) -> None:
        self.session = f"liar-{number:03d}"
        self._path = folder / f"{999_000 + number}.json"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVTIMEO, 30_000)
        self._socket.bind(f"ipc://{self._path.with_suffix('.sock')}")
        self._geometry = Geometry(
            layers=META.layers, kv_heads=META.kv_heads, page_size=META.page_size, selected=META.selected,
            candidates=META.candidates, page_bytes=META.page_bytes, slots=64, groups=64,
        )  # fmt: skip
        pid = os.getpid()
        entry = discovery.RuntimeFile(
            endpoint=f"ipc://{self._path.with_suffix('.sock')}", session=self.session, pid=pid, started=time.time(),
            start_time=discovery.process_start_time(pid) or "", model="liar", geometry=self._geometry,
        )  # fmt: skip
        discovery.write_file(self._path, entry)

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._context.destroy(0)

    def greet(self, protocol: int = 1) -> None:
        """Answer the first who attaches as a runtime would."""
        self._peer, *_ = self._socket.recv_multipart()
        hello = Hello(
            protocol=protocol, session=self.session, pid=1, model="liar", geometry=self._geometry, epoch=0,
            builtin_policy="lru", controller=True, lease_seconds=8.0,
        )  # fmt: skip
        self.say([bytes(frame) for frame in encode(hello, 1)])

    def say(self, frames: list[bytes]) -> None:
        """Send frames to whoever attached."""
        self._socket.send_multipart([self._peer, *frames])
