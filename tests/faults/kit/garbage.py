"""Hostile messages: random bytes, and golden vectors that are cut, spliced, swollen, nested or nearly right."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

GOLDEN = Path(__file__).parents[2] / "golden" / "protocol"
Frames = list[bytes]


def read_frames(path: Path) -> Frames:
    """The frames of a golden vector."""
    data, frames = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:4], "big")
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames


def _ours(frames: Frames) -> Frames:
    """A runtime asks the kernel who a local peer is, so `attach` has to name this process to be let in."""
    topic, number, header, *arrays = frames
    fields = msgpack.unpackb(header)
    if topic == b"attach":
        fields["pid"] = os.getpid()
    return [topic, number, msgpack.packb(fields), *arrays]


class Garbage:
    """An endless source of messages; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._golden = [_ours(read_frames(path)) for path in sorted(GOLDEN.glob("*.bin"))]
        self._swollen = msgpack.packb({"type": "attach", "peer": "x" * 70_000})
        kinds: list[tuple[Callable[[], Frames], int]] = [
            (self.noise, 4), (self.mutated, 10), (self.truncated, 4), (self.spliced, 4), (self.lying, 6),
            (self.nested, 2), (self.many_frames, 1), (self.unknown, 2), (self.whole, 4), (self.swollen, 1),
        ]  # fmt: skip
        self._kinds = [kind for kind, _ in kinds]
        self._weights = [weight for _, weight in kinds]

    def batch(self, count: int) -> list[Frames]:
        """So many messages."""
        return [kind() for kind in self._chance.choices(self._kinds, self._weights, k=count)]

    def noise(self) -> Frames:
        """Random bytes in up to eight frames."""
        return [self._chance.randbytes(self._chance.randrange(64)) for _ in range(self._chance.randrange(1, 9))]

    def whole(self) -> Frames:
        """A good message, though perhaps not one for a peer to send."""
        return list(self._chance.choice(self._golden))

    def mutated(self) -> Frames:
        """A good message with up to four bytes changed."""
        frames = [bytearray(frame) for frame in self.whole()]
        for _ in range(self._chance.randrange(1, 5)):
            frame = self._chance.choice(frames)
            if frame:
                frame[self._chance.randrange(len(frame))] = self._chance.randrange(256)
        return [bytes(frame) for frame in frames]

    def truncated(self) -> Frames:
        """A good message whose last frames, or the end of one frame, are missing."""
        frames = self.whole()
        if self._chance.random() < 0.5:
            return frames[: self._chance.randrange(1, len(frames) + 1)]
        which = self._chance.randrange(len(frames))
        frames[which] = frames[which][: self._chance.randrange(len(frames[which]) + 1)]
        return frames

    def spliced(self) -> Frames:
        """The head of one message with the arrays of another."""
        return self.whole()[:3] + self.whole()[3:]

    def lying(self) -> Frames:
        """A header one field of which is something else: another type, out of bounds, absent."""
        topic, number, header, *arrays = self.whole()
        fields: dict[Any, Any] = msgpack.unpackb(header)
        absurd = [-1, 2**63, 2**64 - 1, 1.5, float("nan"), None, True, "x" * 300, b"\xff", [], {}, [[-1]], {"a": -1}]
        key = self._chance.choice(list(fields))
        fields[key] = self._chance.choice(absurd)
        if self._chance.random() < 0.2:
            del fields[key]
        if self._chance.random() < 0.3:
            fields["arrays"] = [["pages", "<i4", [2**28, self._chance.randrange(2**40)]] for _ in arrays or [b""]]
        return [topic, number, msgpack.packb(fields), *arrays]

    def nested(self) -> Frames:
        """A header of arrays or maps in each other, thousands deep: a bomb for a recursive reader."""
        depth = self._chance.choice([5, 7, 100, 600, 5000])
        inner = self._chance.choice([b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x01"]) * depth + b"\xc0"
        return [b"attach", (1).to_bytes(8, "big"), b"\x82\xa4type\xa6attach\xa1x" + inner]

    def swollen(self) -> Frames:
        """A header far larger than needed, or one that announces four billion items and holds none."""
        bomb = self._chance.choice([b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"])
        return [b"attach", (1).to_bytes(8, "big"), self._chance.choice([self._swollen, bomb])]

    def many_frames(self) -> Frames:
        """More frames than a message may have."""
        return self.whole() + [b""] * self._chance.randrange(17, 60)

    def unknown(self) -> Frames:
        """A well formed message of a type that nobody knows, which is answered and forgiven."""
        return [b"gossip", (1).to_bytes(8, "big"), msgpack.packb({"type": "gossip", "arrays": []})]
