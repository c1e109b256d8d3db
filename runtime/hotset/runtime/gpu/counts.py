"""What only the device knows adds up in int64 words of one tensor: where each stands, and what figures it adds to."""

from __future__ import annotations

from hotset.kernels.apply_plan import REASONS as PLAN_REASONS
from hotset.kernels.prefetch import REASONS as PREFETCH_REASONS
from hotset.runtime.figures import Movement

DEMAND_PAGES, STALL_NS, WASTED = 3, 4, 5
PLAN = slice(6, 7 + len(PLAN_REASONS))
BEGUN = slice(PLAN.stop, PLAN.stop + 1 + len(PREFETCH_REASONS))
LINK_NS = BEGUN.stop
"""That copies of whole steps were on the link: misses, and prefetches begun inside a step."""
COUNTS = LINK_NS + 1
"""Words: accesses, hits and prefetched hits (kernels.record), then these, all cumulative."""


def add_counts(moved: Movement, new: list[int]) -> None:
    """Bring `moved` up to date with what each word has gained."""
    moved.accesses += new[0]
    moved.hits += new[1]
    moved.prefetched_hits += new[2]
    moved.demand_pages += new[DEMAND_PAGES]
    moved.prefetch_wasted += new[WASTED]
    moved.entries_applied += new[PLAN][0]
    moved.prefetch_pages += new[BEGUN][0]
    for reasons, part in ((PLAN_REASONS, PLAN), (PREFETCH_REASONS, BEGUN)):
        if any(new[part][1:]):
            moved.entries_rejected.update({r: n for r, n in zip(reasons, new[part][1:], strict=True) if n})
