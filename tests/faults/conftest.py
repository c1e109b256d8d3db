"""Real processes: `hotset play` beside `hotset daemon`, and `hotset decode` where tokens matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from sandbox import Hotset, write_trace
from witness import Witness

from hotset.predictor.trace import Trace, read_trace


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded trace to play."""
    folder = tmp_path_factory.mktemp("trace") / "log"
    write_trace(folder)
    return folder


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
def hotset(tmp_path: Path) -> Iterator[Hotset]:
    """Processes in folders of their own."""
    made = Hotset(tmp_path)
    yield made
    made.close()


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
