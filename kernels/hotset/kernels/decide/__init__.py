"""Decide: what to prefetch between two layers, and what the slots' pages are worth, from the forest's two heads."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hotset.kernels.decide import reference
from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.state import ResidencyState

__all__ = ["Decision", "decide", "join_candidates", "least_probability", "rescue", "write_values"]


class Decision(NamedTuple):
    """What becomes of m candidates."""

    prefetch: torch.Tensor  # [limit] int32 physical pages, surest first, -1 pads: what begin_prefetch takes
    wanted: torch.Tensor  # [1] int32, candidates above the threshold, also those beyond `limit`
    values: torch.Tensor  # [m] float32: of resident pages to protect at this step, NaN of the others


def join_candidates(ranked: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
    """The lookahead [B, H, r] and pages seen lately [B, H, n] (int32, -1 pads): [B, H, r + n], repeated ones as -1.

    Ranks stay what they are, since a ranked page keeps its place. Raises ValueError on tensors that do not fit.
    """
    require_tensor("ranked", ranked, (None, None, None), torch.int32)
    require_tensor("recent", recent, (*ranked.shape[:2], None), torch.int32, like=ranked)
    if use_kernel(ranked) and recent.numel():
        from hotset.kernels.decide import kernel

        return kernel.join_candidates(ranked, recent)
    return reference.join_candidates(ranked, recent)


def least_probability(
    budget: torch.Tensor, utilisation: torch.Tensor, *, link_us: float, saved_us: float
) -> torch.Tensor:
    """Probability of use above which a page pays for its place on the link, [n] float32, one for each budget.

    A prefetch pays if probability * saved_us > link_us / (1 - utilisation): moving a page takes `link_us` of a link
    that others use for `utilisation` ([1] float32) of the time, and the fuller it is, the longer they wait for it; a
    demand miss would have cost `saved_us`. The daemon's `budget` ([n] float32) is a threshold of its own, from its
    movement budget; the larger counts. A budget that is no probability (NaN: the daemon is silent) counts as
    SAFE_PROBABILITY, an unknown utilisation as 0, a full link as infinity: nothing pays. Tensors, so that captured
    graphs see them change. Raises ValueError on arguments that do not fit.
    """
    require_tensor("budget", budget, (None,), torch.float32)
    require_tensor("utilisation", utilisation, (1,), torch.float32, like=budget)
    require(link_us >= 0 and saved_us > 0, f"need link_us >= 0 and saved_us > 0, not {link_us} and {saved_us}")
    return reference.least_probability(budget, utilisation, link_us / saved_us)


def decide(
    state: ResidencyState,
    pages: torch.Tensor,
    probability: torch.Tensor,
    least: torch.Tensor,
    *,
    limit: int,
    protect: int = 0,
    unknown: torch.Tensor | None = None,
    count: torch.Tensor | None = None,
) -> Decision:
    """Choose among candidates `pages` ([m] int32 physical, -1 pads) with `probability` ([m] float32) of use now.

    Prefetched is what has no slot and is surer than `least` ([1] float32), the surest first, ties to the earlier entry,
    at most `limit`. A resident page with PROTECTED probability or more is given a value between those of a page that is
    surely used (VALUE_USED) and surely not (VALUE_UNUSED). With `protect` its slot has that value for so many steps, as
    by write_values, and leaves the reserve, as by rescue, so that no prefetch takes it; else nothing is changed. NaN
    counts as 0, and so does everything of the sequences for which `unknown` ([B] int32, m / B candidates each, in
    order) is not 0. `count` ([1] int32, holding 0) becomes `wanted`. Nothing waits for the host.
    Raises ValueError on arguments that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require_tensor("probability", probability, tuple(pages.shape), torch.float32, like=pages)
    require_tensor("least", least, (1,), torch.float32, like=pages)
    require(0 < limit <= pages.numel(), f"limit {limit} of {pages.numel()} candidates")
    require(protect >= 0, f"protect must not be negative, but is {protect}")
    if unknown is not None:
        require_tensor("unknown", unknown, (None,), torch.int32, like=pages)
        fits = unknown.numel() > 0 and pages.numel() % unknown.numel() == 0
        require(fits, f"{pages.numel()} candidates are not of {unknown.numel()} sequences")
    if count is None:
        count = torch.zeros(1, dtype=torch.int32, device=pages.device)
    require_tensor("count", count, (1,), torch.int32, like=pages)
    if use_kernel(pages):
        from hotset.kernels.decide import kernel

        return Decision(*kernel.decide(state, pages, probability, least, limit, protect, unknown, count))
    return Decision(*reference.decide(state, pages, probability, least, limit, protect, unknown, count))


def rescue(state: ResidencyState, pages: torch.Tensor, values: torch.Tensor) -> None:
    """Take the slots of `pages` ([m] int32 physical, -1 pads) out of the reserve whose `values` ([m]) are finite.

    As a hit does, before it comes: a page that is expected at this step is no victim of this step's prefetches. Nothing
    waits for the host.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require_tensor("values", values, tuple(pages.shape), torch.float32, like=pages)
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.decide import kernel

        kernel.rescue(state, pages, values)
        return
    reference.rescue(state, pages, values)


def write_values(state: ResidencyState, pages: torch.Tensor, values: torch.Tensor, *, steps: int) -> None:
    """Give the slots of `pages` ([m] int32 physical, -1 pads) `values` ([m] float32) for `steps` steps from now.

    As a plan of the daemon does, but without a round trip. Skipped: pages without a slot or still in flight, and values
    that are not finite. If two entries name one page, either counts. Raises ValueError on arguments that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require_tensor("values", values, tuple(pages.shape), torch.float32, like=pages)
    require(steps > 0, f"values must hold for a step or more, not {steps}")
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.decide import kernel

        kernel.write_values(state, pages, values, steps)
        return
    reference.write_values(state, pages, values, steps)
