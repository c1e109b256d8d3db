"""Write `<type>.bin` for every `<type>.json` beside this file. Run it only when the protocol has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hotset.protos.messages import MESSAGES
from hotset.protos.wire import encode

HERE = Path(__file__).parent


def frames_of(golden: dict[str, Any]) -> list[bytes]:
    """The frames of a golden message."""
    arrays = {a["name"]: np.array(a["items"], a["dtype"]).reshape(a["shape"]) for a in golden["arrays"]}
    message = MESSAGES[golden["fields"]["type"]].model_validate(golden["fields"] | arrays)
    return [bytes(frame) for frame in encode(message, golden["sequence_number"])]


def pack(frames: list[bytes]) -> bytes:
    """Frames in one file, each behind its length."""
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.json")):
        path.with_suffix(".bin").write_bytes(pack(frames_of(json.loads(path.read_text()))))
