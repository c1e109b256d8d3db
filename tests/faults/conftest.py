"""Real processes: `hotset play` beside `hotset daemon`, and `hotset decode` where tokens matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from sandbox import hotset, trace
from witness import Witness

from hotset.predictor.trace import Trace, read_trace

__all__ = ["checkpoint", "hotset", "recorded", "trace", "witness"]


@pytest.fixture(scope="session")
def recorded(trace: Path) -> Trace:
    """What that trace holds."""
    return read_trace(trace)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama checkpoint folder with a word tokenizer; random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture
def witness(recorded: Trace) -> Iterator[Callable[[str], Witness]]:
    """Starts witnesses; at the end of the test all of them must have seen what was recorded."""
    made: list[Witness] = []

    def start(endpoint: str) -> Witness:
        made.append(Witness(endpoint, recorded))
        return made[-1]

    yield start
    for one in made:
        one.close()
