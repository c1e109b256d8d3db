"""Recorded sequences tiled to the load of a node: who comes when, and which recorded steps each plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hotset.predictor.trace import SequenceTrace
from hotset.protos.errors import ConfigError
from hotset.protos.trace import TraceMeta

ARRIVALS = "at-once, poisson:REQUESTS_A_SECOND or bursts:REQUESTS:SECONDS_APART"


@dataclass(frozen=True)
class Request:
    """A copy of recorded sequence `source`: its steps `first` to `first + steps - 1`, layers turned by `turn`."""

    number: int
    source: int
    trace: SequenceTrace
    first: int
    steps: int
    turn: int
    arrival_us: float
    prefix_pages: int
    """pages of the prompt that all copies of the same source share while one of them lives"""

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the first step that is played."""
        return int(self.trace.lengths[self.first]) - 1

    @property
    def last_length(self) -> int:
        """Tokens after the last one."""
        return int(self.trace.lengths[self.first + self.steps - 1])


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival, and the lanes that all of them have."""

    meta: TraceMeta
    requests: list[Request]

    @property
    def longest_pages(self) -> int:
        """Pages of a lane of the longest request at its end."""
        return -(-max(r.last_length for r in self.requests) // self.meta.page_size)


def tile(
    meta: TraceMeta,
    recorded: Sequence[SequenceTrace],
    *,
    sequences: int,
    arrivals: str = "at-once",
    tokens: int | None = None,
    shared_prefix: float = 0.0,
    seed: int = 0,
) -> Workload:
    """`sequences` requests, the recorded ones in turn. The first round plays them as they are.

    Later copies play their layers in another order (layer l as layer l + turn) and, where `tokens` is less than
    what was recorded, begin at a random step, so that copies do not move in step. With a `shared_prefix` they keep
    the order of layers, since the pages are the same. Raises ConfigError for what does not fit the recordings.
    """
    if sequences < 1 or (tokens is not None and tokens < 1):
        raise ConfigError("a load has at least one sequence, of at least one token")
    if not 0 <= shared_prefix <= 1:
        raise ConfigError(f"a shared prefix of {shared_prefix:g}: give a share of the prompt, between 0 and 1")
    rng = np.random.default_rng(seed)
    times = arrival_times(arrivals, sequences, rng)
    requests = []
    for number in range(sequences):
        source = number % len(recorded)
        trace, copy = recorded[source], number >= len(recorded)
        steps = _steps(trace, tokens)
        first = int(rng.integers(0, len(trace.epochs) - steps + 1)) if copy else 0
        turn = int(rng.integers(0, meta.layers)) if copy and not shared_prefix else 0
        prefix = int(shared_prefix * ((int(trace.lengths[0]) - 1) // meta.page_size))
        requests.append(Request(number, source, trace, first, steps, turn, float(times[number]), prefix))
    return Workload(meta, requests)


def arrival_times(arrivals: str, count: int, rng: np.random.Generator) -> list[float]:
    """Microseconds at which `count` requests come, rising. Raises ConfigError that names the process."""
    kind, *numbers = arrivals.split(":")
    try:
        given = [float(number) for number in numbers]
    except ValueError:
        given = []
    if kind == "at-once" and not numbers:
        return [0.0] * count
    if kind == "poisson" and len(given) == 1 and given[0] > 0:
        return [float(t) for t in np.cumsum(rng.exponential(1e6 / given[0], count))]
    if kind == "bursts" and len(given) == 2 and given[0] >= 1 and given[1] > 0:
        return [(i // int(given[0])) * given[1] * 1e6 for i in range(count)]
    raise ConfigError(f"unknown arrivals {arrivals!r}; give {ARRIVALS}")


def _steps(trace: SequenceTrace, tokens: int | None) -> int:
    if tokens is None:
        return len(trace.epochs)
    if tokens > len(trace.epochs):
        raise ConfigError(
            f"{tokens} tokens a sequence, but sequence {trace.sequence} was recorded for {len(trace.epochs)} steps"
        )
    return tokens
