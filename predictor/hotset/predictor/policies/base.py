"""What a policy is to replay. Three kinds, each one file with a module-level `POLICY`.

- `RankedPolicy`: a page's value follows from the trace alone, whatever is resident. It gives the new value of
  every candidate at every step; one compiled pool (replay/pools.py) evicts the worst.
- `ListPolicy`: the order is a data structure (queues, stacks, a hand). It runs a compiled loop over demands.
- `SteeredPolicy`: values and prefetches come from a state that is asked step by step, as a daemon would be.
  This is the hook of the learned policies.

Rules for all kinds. A value is the predicted time to the next use: smaller is hotter, the largest is evicted.
Ties go to the lower page, then lower lane. Pages selected in this step are no victims in it. Every lane of a
pool competes with the same values, so values must be comparable across lanes for the shared pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hotset.predictor.trace.sequence import Bool, Int32, Int64, SequenceTrace, UInt8
from hotset.protos.errors import HotsetError
from hotset.protos.trace import TraceMeta

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class PolicyError(HotsetError):
    """An unknown policy, or one that cannot run on this trace or pool."""


@dataclass(frozen=True)
class Policy:
    """`name` is what `--policy` takes; `clairvoyant` policies read the future and only bound the others."""

    name: str
    summary: str
    clairvoyant: bool = False


class Clock(NamedTuple):
    """When the steps of a sequence take place in the batch."""

    epochs: Int64
    """[T] step of the batch, from 0."""
    turns: Int64
    """[T, lanes] moment of each lane's demand: rising over the whole replay, in the order of service."""

    def head(self, steps: int) -> Clock:
        """The first `steps` recorded steps."""
        return Clock(self.epochs[:steps], self.turns[:steps])


@dataclass(frozen=True)
class RankedPolicy(Policy):
    """`values(sequence, clock, meta)` -> [T, lanes, n]: value of each candidate from its lane's turn on.

    NaN leaves a value as it was; a page that never had a value counts as +inf.
    """

    values: Callable[[SequenceTrace, Clock, TraceMeta], Float64] = lambda s, c, m: np.full(s.pages.shape, np.nan)


class Demand(NamedTuple):
    """The demands of one pool in order of service: group g demands keys[offsets[g]:offsets[g+1]] at once."""

    keys: Int32
    """[m] pages as keys, distinct per lane: 0 <= key < key_count."""
    offsets: Int64
    """[G+1]"""
    stamps: Int32
    """[G] step of each group, from 1: keys demanded at the same stamp are no victims of one another."""


@dataclass(frozen=True)
class ListPolicy(Policy):
    """`run(demand, capacity, key_count, seed)` -> bool[m]: which demands missed. Compiled.

    A group's hits are all recorded before its first miss evicts. `capacity` holds the keys of any one stamp.
    """

    run: Callable[[Demand, int, int, int], Bool] = lambda d, c, k, s: np.ones(len(d.keys), np.bool_)


class StepView(NamedTuple):
    """What a step showed, as the runtime reports it after the fact."""

    epoch: int
    length: int
    pages: Int32
    """[lanes, n], -1 pad"""
    scores: UInt8
    """[lanes, n]"""
    selected: Bool
    """[lanes, n]"""


class Prefetch(NamedTuple):
    """Pages to bring in before the demand of a step.

    A page that is resident already is not moved; it takes the value given (NaN: keeps its own), so that a page
    expected soon does not go for another one. Any other takes a free slot, or that of the worst page whose value is
    larger than its own; a budget or threshold is the policy's to apply, by leaving pages out.
    """

    pages: Int32
    """[lanes, r] best first, -1 pad"""
    values: Float32
    """[lanes, r] values, as of `Steering.values`"""
    early: int
    """0: planned after the step before, and issued as this step begins. d >= 1: from a query estimated d layers
    early, issued as layer l-d begins."""


class Steering(Protocol):
    """State of one sequence, asked in this order at every step t:

    1. `prefetch(...)`: before anything of step t but its lookahead is known;
    2. if the policy is `fresh`: `observe(step t)`, then `values(...)` of all resident and all selected pages; a
       lane's new values count from its turn on (later layers are not known earlier), and lane features of
       step t may use that lane and layers before it only;
    3. the demand of step t evicts by the values it has;
    4. if the policy is not `fresh`: `observe(step t)`, then `values(...)` of all resident pages, which
       count from step t+1 on, as with a daemon that is a step behind.
    """

    def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
        """Candidates for this step. lookahead: layers early -> [lanes, r]; resident: [lanes, pages]."""

    def observe(self, step: StepView) -> None:
        """Learn what a step selected."""

    def values(self, lanes: Int32, pages: Int32) -> Float32:
        """[m] values of pages of lanes of this sequence; NaN keeps the value that a page has."""


class SteeringContext(NamedTuple):
    """What a `Steering` is made for."""

    meta: TraceMeta
    sequence: int
    prompt_tokens: int
    page_count: int
    """pages that the sequence will ever mention"""
    slots_per_lane: int


@dataclass(frozen=True)
class SteeredPolicy(Policy):
    """`open(context, model)` makes the state of one sequence. `model` is None unless `needs_model`."""

    open: Callable[[SteeringContext, ReuseModel | None], Steering] | None = None
    needs_model: bool = True
    fresh: bool = False
