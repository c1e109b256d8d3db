"""Every metric's name, kind, help text and labels, in one place. Prometheus conventions: base units, `_total`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from hotset.protos.parts import LayerFigure

Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """A metric of the daemon. Those of a session carry SESSION_LABELS first, and are gone when it ends."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


SESSION_LABELS = ("session", "pid", "model")

# Keyed by the field of the daemon's SessionCounters that it exposes.
COUNTERS: dict[str, Metric] = {
    "steps_received": Metric("hotset_steps_received_total", "counter", "Step messages received"),
    "accesses": Metric("hotset_accesses_total", "counter", "Selected pages in received steps"),
    "hits": Metric("hotset_hits_total", "counter", "Selected pages that were resident"),
    "prefetched_hits": Metric(
        "hotset_prefetched_hits_total", "counter", "Selected pages resident thanks to a prefetch"
    ),
    "demand_pages": Metric("hotset_demand_pages_total", "counter", "Pages loaded on a demand miss"),
    "moved_bytes": Metric("hotset_moved_bytes_total", "counter", "Bytes that crossed the host link"),
    "step_seconds": Metric("hotset_step_seconds_total", "counter", "Time that the received steps took"),
    "stall_seconds": Metric("hotset_stall_seconds_total", "counter", "Time of it that attention waited for movement"),
    "steps_skipped": Metric(
        "hotset_steps_skipped_total", "counter", "Steps not planned from: a newer one had come meanwhile"
    ),
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
    "guard_takeovers": Metric(
        "hotset_guard_takeovers_total", "counter", "Times that the guard took the turn from the model"
    ),
    "advice_sent": Metric("hotset_advice_sent_total", "counter", "Pieces of advice sent"),
    "advice_refused": Metric("hotset_advice_refused_total", "counter", "Pieces of advice the runtime did not follow"),
    "models_pushed": Metric("hotset_models_pushed_total", "counter", "Models sent to decide inside the step"),
    "models_refused": Metric("hotset_models_refused_total", "counter", "Models of those the runtime refused"),
    "models_withdrawn": Metric(
        "hotset_models_withdrawn_total", "counter", "Models of those that did worse than none, and were taken back"
    ),
    "lookaheads_sent": Metric(
        "hotset_lookahead_steerings_total", "counter", "Thresholds and distances of the lookahead sent"
    ),
    "lookaheads_refused": Metric(
        "hotset_lookahead_steerings_refused_total", "counter", "Of those, what the runtime did not follow"
    ),
    "log_bytes": Metric("hotset_log_bytes_total", "counter", "Bytes of trace log written"),
    "lanes_shed": Metric(
        "hotset_lanes_shed_total", "counter", "Lanes of sequence steps not observed: overload, or no room"
    ),
    "compactions": Metric("hotset_compactions_total", "counter", "Sequences whose features were dropped"),
    "sequences_refused": Metric(
        "hotset_sequences_refused_total", "counter", "Sequences left to the runtime: no room in table_bytes"
    ),
    "trainings": Metric("hotset_trainings_total", "counter", "Trainings started"),
    "swaps": Metric("hotset_model_swaps_total", "counter", "Models put into service"),
}
REJECTED = Metric("hotset_plan_entries_rejected_total", "counter", "Plan entries the runtime rejected", ("reason",))
PLAN_SECONDS = Metric("hotset_plan_seconds", "histogram", "Time from a step's arrival to its plan on the wire")
PLAN_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0)
"""upper borders in seconds; the targets, 2 and 8 ms, are among them"""

# Keyed by the field of the daemon's SessionGauges; one that is not known is not exposed.
GAUGES: dict[str, Metric] = {
    "epoch": Metric("hotset_epoch", "gauge", "Step that the session has reached"),
    "controller": Metric("hotset_controller", "gauge", "1 if this daemon holds the lease, else 0"),
    "sequences": Metric("hotset_sequences", "gauge", "Sequences that decode"),
    "waiting": Metric("hotset_waiting_sequences", "gauge", "Requests that wait for admission"),
    "paused": Metric("hotset_paused_sequences", "gauge", "Sequences that hold pages and do not run"),
    "reserve": Metric("hotset_reserve_slots", "gauge", "Slots in the runtime's reserve"),
    "hot_slots": Metric("hotset_hot_slots", "gauge", "Slots that the hot set may use"),
    "learned": Metric("hotset_learned", "gauge", "1 if a learned model plans, 0 for the heuristic"),
    "ingest_lag": Metric(
        "hotset_ingest_lag_seconds", "gauge", "Time that taking in what had piled up took in the newest turn"
    ),
    "observed_share": Metric(
        "hotset_observed_lanes_ratio", "gauge", "Share of the lanes that is observed; below 1 under overload"
    ),
    "state_bytes": Metric("hotset_state_bytes", "gauge", "Memory for what is remembered of pages"),
    "scored_share": Metric(
        "hotset_scored_lanes_ratio", "gauge", "Share of the lanes that a plan scores; the others take turns"
    ),
    "link_rate": Metric("hotset_link_bytes_per_second", "gauge", "Rate of the host link, measured or given"),
    "guard_ok": Metric("hotset_guard_ok", "gauge", "1 if the guard lets the model plan, 0 if it took over"),
    "ghost_learned": Metric("hotset_ghost_misses_learned", "gauge", "Misses of the model's ghost, last window"),
    "ghost_heuristic": Metric("hotset_ghost_misses_heuristic", "gauge", "Misses of the heuristic's ghost, last window"),
    "drift": Metric("hotset_feature_drift_max", "gauge", "Largest stability index of the features the model tests"),
    "retrain_wanted": Metric("hotset_retrain_wanted", "gauge", "1 if the accesses drifted off the training's"),
    "model_made": Metric(
        "hotset_model_timestamp_seconds", "gauge", "When the model that is in service was made, since 1970"
    ),
    "training_running": Metric("hotset_training_running", "gauge", "1 while a training runs"),
    "log_failed": Metric("hotset_log_failed", "gauge", "1 once the trace log cannot be written"),
    "advised_concurrency": Metric("hotset_advised_sequences", "gauge", "Sequences to run, as advised"),
    "advised_slots": Metric("hotset_advised_hot_slots", "gauge", "Slots to keep hot, as advised"),
    "admit_every": Metric("hotset_advised_admission_steps", "gauge", "Steps between admissions, as advised"),
    "knee_slots": Metric("hotset_knee_slots", "gauge", "Slots beyond which more of them hardly save stall"),
    "expected_stall": Metric(
        "hotset_expected_stall_seconds", "gauge", "Stall of a step that the curve expects of the present pool"
    ),
    "device_model": Metric("hotset_device_model", "gauge", "1 if a pushed model decides inside the step, else 0"),
    "step_precision": Metric(
        "hotset_lookahead_precision_ratio", "gauge", "Prefetches inside the step that were used, of late"
    ),
    "step_coverage": Metric(
        "hotset_lookahead_coverage_ratio",
        "gauge",
        "New pages that a prefetch inside the step brought before demand, of late",
    ),
}


class LayerMetric(NamedTuple):
    """What each figure of `Step.by_layer` adds to, by cause."""

    metric: Metric
    causes: dict[str, LayerFigure]
    """Name of the cause, none for a metric without, to its figure."""
    unit: float = 1.0
    """Of the figure, in the metric's; 0: bytes of a page."""


LAYERS: tuple[LayerMetric, ...] = (
    LayerMetric(
        Metric("hotset_layer_moved_bytes_total", "counter", "Bytes loaded for a layer, by cause", ("cause", "layer")),
        {"demand": LayerFigure.DEMAND_PAGES, "plan": LayerFigure.PLAN_PAGES, "step": LayerFigure.STEP_PAGES},
        unit=0.0,
    ),
    LayerMetric(
        Metric("hotset_layer_prefetch_used_total", "counter", "Prefetched pages that were used", ("cause", "layer")),
        {"plan": LayerFigure.PLAN_USED, "step": LayerFigure.STEP_USED},
    ),
    LayerMetric(
        Metric(
            "hotset_layer_prefetch_wasted_total", "counter", "Prefetched pages lost without a use", ("cause", "layer")
        ),
        {"plan": LayerFigure.PLAN_WASTED, "step": LayerFigure.STEP_WASTED},
    ),
    LayerMetric(
        Metric(
            "hotset_layer_stall_seconds_total",
            "counter",
            "Time that attention waited for copies of its misses, or for prefetches on the link",
            ("cause", "layer"),
        ),
        {"copy": LayerFigure.COPY_STALL_US, "link": LayerFigure.LINK_STALL_US},
        unit=1e-6,
    ),
    LayerMetric(
        Metric("hotset_layer_held_pages_total", "counter", "Prefetches that the budget held back", ("layer",)),
        {"": LayerFigure.HELD_PAGES},
    ),
    LayerMetric(
        Metric("hotset_lookahead_distance", "gauge", "Layers that the lookahead is early, in force", ("layer",)),
        {"": LayerFigure.DISTANCE},
    ),
    LayerMetric(
        Metric(
            "hotset_lookahead_least_probability", "gauge", "Least probability of a prefetch in the step", ("layer",)
        ),
        {"": LayerFigure.LEAST},
        unit=1e-4,
    ),
)
SESSION: tuple[Metric, ...] = (
    *COUNTERS.values(),
    REJECTED,
    PLAN_SECONDS,
    *GAUGES.values(),
    *(layered.metric for layered in LAYERS),
)

BUILD_INFO = Metric("hotset_build_info", "gauge", "Always 1", ("version", "python"))
UPTIME = Metric("hotset_uptime_seconds", "gauge", "Time since the daemon started")
READY = Metric("hotset_ready", "gauge", "1 if /readyz says so")
SESSIONS = Metric("hotset_sessions", "gauge", "Sessions that are served now", ("role",))
SESSIONS_ENDED = Metric("hotset_sessions_ended_total", "counter", "Sessions that are over")
RELOADS = Metric("hotset_config_reloads_total", "counter", "Configurations read again", ("result",))
PROCESS: tuple[Metric, ...] = (BUILD_INFO, UPTIME, READY, SESSIONS, SESSIONS_ENDED, RELOADS)

ALL: tuple[Metric, ...] = (*SESSION, *PROCESS)
