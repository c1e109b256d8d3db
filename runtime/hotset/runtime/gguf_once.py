"""What transformers reads of a GGUF file by `gguf.GGUFReader` it reads once, instead of five times.

For configuration, tokenizer and weights it makes a reader each, which walks all of the vocabulary in Python by slices
of a memory map, and a map of tensor names for each module. Without that SmolLM2-135M loads in a sixth of the time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within, whoever looks up `gguf.GGUFReader` shares one reader a file. Not for two threads at once."""
    import gguf

    class Reader(gguf.GGUFReader):
        """Slices plain arrays: those of a memory map take longer to make."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if isinstance(value, np.memmap) else value)

    @functools.cache
    def reader(path: Path) -> Reader:
        return Reader(path)

    theirs = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = lambda path, mode="r": reader(Path(path)) if mode == "r" else Reader(path, mode)  # type: ignore[misc,assignment]
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = theirs  # type: ignore[misc]
