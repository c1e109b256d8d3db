"""A film of a few lanes: which pages were selected, resident and missed at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.ops.run_folder import LANES_FILE, MISSED, RESIDENT, SELECTED
from hotset.protos.messages import AccessFlag
from hotset.runtime.decoder import Decoder


class LaneFilm:
    """Records lanes of the first sequence, spread over the layers; one frame a step, one byte a page."""

    def __init__(self, decoder: Decoder, count: int = 3) -> None:
        self._decoder = decoder
        layers, heads = decoder.kv.shape.layers, decoder.kv.shape.kv_heads
        self.lanes = [(layers * (2 * i + 1) // (2 * count), i % heads) for i in range(count)]
        self._frames: list[npt.NDArray[np.uint8]] = []

    def record(self) -> None:
        """Take the step that the decoder has just finished; nothing where the first sequence paused or has ended."""
        done, kv = self._decoder.last_pass, self._decoder.kv
        if done is None or 0 not in done.sequences or 0 not in kv.sequences:
            return
        row = done.sequences.index(0)
        groups = np.array(kv.sequences[0].groups)
        frame = np.zeros((len(self.lanes), len(groups)), np.uint8)
        for i, (layer, head) in enumerate(self.lanes):
            pages = groups * kv.lanes + layer * kv.shape.kv_heads + head
            frame[i] = (kv.manager.state.slot_of[pages] >= 0).numpy() * RESIDENT
            chosen = done.candidates[row, layer, head].numpy()
            flags = done.flags[row, layer, head].numpy()
            selected = (flags & AccessFlag.SELECTED) != 0
            missed = selected & ((flags & AccessFlag.HIT) == 0)
            frame[i, chosen[selected]] |= SELECTED
            frame[i, chosen[missed]] |= MISSED
        self._frames.append(frame)

    def save(self, folder: Path) -> None:
        """Write LANES_FILE: frames [steps, lanes, pages] uint8 (RESIDENT, SELECTED, MISSED bits), lanes [lanes, 2]."""
        width = max((f.shape[1] for f in self._frames), default=0)
        frames: Any = [np.pad(f, ((0, 0), (0, width - f.shape[1]))) for f in self._frames]
        np.savez_compressed(folder / LANES_FILE, frames=np.array(frames, np.uint8), lanes=np.array(self.lanes))
