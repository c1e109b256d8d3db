"""Every metric's name, kind, help text and labels, in one place. Prometheus conventions: base units, `_total`."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge"]


class Metric(NamedTuple):
    """A metric of the daemon; all carry the labels `session`, `pid` and `model` first."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


SESSION_LABELS = ("session", "pid", "model")

# Keyed by the counter of the daemon's session that it exposes.
COUNTERS: dict[str, Metric] = {
    "steps_received": Metric("hotset_steps_received_total", "counter", "Step messages received"),
    "accesses": Metric("hotset_accesses_total", "counter", "Selected pages in received steps"),
    "hits": Metric("hotset_hits_total", "counter", "Selected pages that were resident"),
    "prefetched_hits": Metric(
        "hotset_prefetched_hits_total", "counter", "Selected pages resident thanks to a prefetch"
    ),
    "demand_pages": Metric("hotset_demand_pages_total", "counter", "Pages loaded on a demand miss"),
    "moved_bytes": Metric("hotset_moved_bytes_total", "counter", "Bytes that crossed the host link"),
    "gaps": Metric("hotset_gaps_total", "counter", "Gaps seen in sequence numbers"),
    "messages_lost": Metric("hotset_messages_lost_total", "counter", "Messages missing in those gaps"),
    "snapshots": Metric("hotset_snapshots_total", "counter", "Snapshots received"),
    "plans_sent": Metric("hotset_plans_sent_total", "counter", "Plans sent"),
    "plans_dropped": Metric("hotset_plans_dropped_total", "counter", "Plans not sent: the queue was full"),
    "entries_sent": Metric("hotset_plan_entries_sent_total", "counter", "Values and prefetches in sent plans"),
    "prefetch_sent": Metric("hotset_prefetch_entries_sent_total", "counter", "Prefetches in sent plans"),
    "plans_refused": Metric(
        "hotset_plans_refused_total", "counter", "Plans superseded by a newer one, or not accepted"
    ),
    "plans_applied": Metric("hotset_plans_applied_total", "counter", "Plans that the runtime accepted"),
    "entries_applied": Metric("hotset_plan_entries_applied_total", "counter", "Plan entries applied"),
    "steps_logged": Metric("hotset_log_steps_total", "counter", "Sequence steps written to the trace log"),
    "log_dropped": Metric("hotset_log_dropped_total", "counter", "Sequence steps the log had no room for"),
    "trainings": Metric("hotset_trainings_total", "counter", "Trainings started"),
    "swaps": Metric("hotset_model_swaps_total", "counter", "Models put into service"),
}
REJECTED = Metric("hotset_plan_entries_rejected_total", "counter", "Plan entries the runtime rejected", ("reason",))
EPOCH = Metric("hotset_epoch", "gauge", "Step that the session has reached")
CONTROLLER = Metric("hotset_controller", "gauge", "1 if this daemon holds the lease, else 0")
SEQUENCES = Metric("hotset_sequences", "gauge", "Sequences that decode")
RESERVE = Metric("hotset_reserve_slots", "gauge", "Slots in the runtime's reserve")
LEARNED = Metric("hotset_learned", "gauge", "1 if a learned model plans, 0 for the heuristic")
PLAN_SECONDS = Metric(
    "hotset_plan_seconds", "gauge", "Time from a step's arrival to its plan, recent quantiles", ("quantile",)
)
GAUGES = (EPOCH, CONTROLLER, SEQUENCES, RESERVE, LEARNED, PLAN_SECONDS)
ALL: tuple[Metric, ...] = (*COUNTERS.values(), REJECTED, *GAUGES)
