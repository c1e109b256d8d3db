"""Judge models by replay and sum over traces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from hotset.predictor.model import ReuseModel
from hotset.predictor.replay import Pool, replay_many
from hotset.predictor.trace import Trace

BASELINES = ("lru", "belady")


@dataclass
class Tally:
    """Sums over traces by (pool, ratio, policy)."""

    demand: dict[tuple[str, float, str], int] = field(default_factory=lambda: defaultdict(int))
    moved: dict[tuple[str, float, str], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, trace: Trace, model: ReuseModel, policies: Iterable[str], ratio: float, pool: Pool) -> None:
        """Replay `policies` and the baselines on one trace."""
        names = [*BASELINES, *policies]
        for result in replay_many([trace], names, ratio=ratio, pool=pool, model=model):
            key = (pool, ratio, result.policy)
            self.demand[key] += result.demand_misses
            self.moved[key] += result.moved_pages

    def lines(self) -> list[dict[str, float | str]]:
        """One line for each pool, ratio and policy, relative to LRU with lane pools of that ratio."""
        found = []
        for pool, ratio, policy in self.demand:
            lru, belady = (self.demand[pool, ratio, name] for name in BASELINES)
            reference = self.demand.get(("lane", ratio, "lru"), 0)
            mine = self.demand[pool, ratio, policy]
            line: dict[str, float | str] = {"pool": pool, "ratio": ratio, "policy": policy, "demand_misses": mine}
            if lru != belady:
                line["gap_closed"] = round((lru - mine) / (lru - belady), 4)
            if reference:
                line["demand_to_lane_lru"] = round(mine / reference, 4)
                line["moved_to_lane_lru"] = round(self.moved[pool, ratio, policy] / reference, 4)
            found.append(line)
        return found
