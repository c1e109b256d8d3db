"""The gate of promotion: replay on traces that the challenger never saw, judged by stall and bytes together.

A model with heads for the device is judged twice, and has to pass twice, as it is promoted and pushed as one: by what
it plans, and by what it decides inside the step, given no more bytes than the thriftiest of the others moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from hotset.predictor.model import ReuseModel
from hotset.predictor.policies import POLICIES
from hotset.predictor.replay import LinkModel, Pool, ReplayResult, replay_many
from hotset.predictor.trace import Trace
from hotset.training.errors import TrainingError
from hotset.training.logs import Extent, extent_of

LEARNED, DEVICE = "learned", "learned-device"
LEAST_BUDGET = 0.05
_TRIES, _TIGHTER = 3, 0.98
BOUND = "belady"
QUICK_HEURISTICS = ("lru", "score-ema", "margin-ema")
# Random is no contender; all others of the registry that neither learn nor see the future are to be beaten.
HEURISTICS = tuple(
    name for name in POLICIES if name not in {BOUND, "random"} and not name.startswith((LEARNED, "lookahead"))
)


@dataclass(frozen=True)
class GateSettings:
    """How replay judges. `ratio` is slots a lane over k; `heuristics` are the policies to be beaten."""

    ratio: float = 2.0
    pool: Pool = "lane"
    link: LinkModel = field(default_factory=LinkModel)
    heuristics: tuple[str, ...] = HEURISTICS
    bound: bool = False
    """Also replay the clairvoyant bound, out of competition."""


def make_settings(
    *, ratio: float, pool: str, heuristics: tuple[str, ...] = HEURISTICS, bound: bool = False
) -> GateSettings:
    """Settings from a command line; TrainingError if they make no sense."""
    if pool not in ("lane", "shared"):
        raise TrainingError(f"unknown pool {pool!r}; choose lane or shared")
    if not ratio >= 1.0:
        raise TrainingError(f"ratio {ratio}; a pool holds at least one selection, so choose 1 or more")
    return GateSettings(ratio, "lane" if pool == "lane" else "shared", heuristics=heuristics, bound=bound)


@dataclass(frozen=True)
class Figures:
    """What replay counted for one contender."""

    contender: str
    demand_misses: int
    miss_ratio: float
    moved_bytes: int
    stall_seconds: float
    gap_closed: float | None = None
    """Share of the demand misses between LRU and Belady that is saved; None if there are none."""


@dataclass(frozen=True)
class GateResult:
    """The verdict with its reason, and the figures of all contenders, challenger first.

    `on_device` are those of the second judgement; empty if the challenger has no heads for the device.
    """

    passed: bool
    reason: str
    figures: tuple[Figures, ...]
    ratio: float
    pool: str
    on_device: tuple[Figures, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def run_gate(
    traces: Sequence[Trace], challenger: ReuseModel, champion: ReuseModel | None, settings: GateSettings
) -> GateResult:
    """Replay all contenders; the challenger passes with less stall at no more bytes than every other one."""
    models = {"challenger": challenger}
    if champion is not None and champion.card.version != challenger.card.version:
        models["champion"] = champion
    figures = replay_all(traces, models, settings)
    passed, reason = judge(figures[0], (f for f in figures[1:] if f.contender != BOUND))
    if challenger.device is None:
        return GateResult(passed, reason, figures, settings.ratio, settings.pool)
    on_device = replay_on_device(with_lookahead(traces), models, settings)
    if on_device:
        passed_too, more = judge(on_device[0], on_device[1:])
    else:
        passed_too, more = False, "the traces hold no lookahead, so that they cannot tell; give some that do"
    reason = f"{reason}; on the device: {more}"
    return GateResult(passed and passed_too, reason, figures, settings.ratio, settings.pool, on_device)


def replay_all(
    traces: Sequence[Trace], models: Mapping[str, ReuseModel], settings: GateSettings
) -> tuple[Figures, ...]:
    """Replay the models, then the heuristics, then, if the settings ask for it, the clairvoyant bound."""
    figures = []
    for name, model in models.items():
        (result,) = _replay(traces, [LEARNED], settings, model)
        figures.append(_figures(name, result))
    others = [*settings.heuristics, *([BOUND] if settings.bound else [])]
    figures += [_figures(result.policy, result) for result in _replay(traces, others, settings)]
    return tuple(figures)


def with_lookahead(traces: Sequence[Trace]) -> list[Trace]:
    """Those that can judge heads for the device."""
    return [trace for trace in traces if all(sequence.lookahead for sequence in trace.sequences)]


def replay_on_device(
    traces: Sequence[Trace], models: Mapping[str, ReuseModel], settings: GateSettings
) -> tuple[Figures, ...]:
    """Replay the models' heads for the device (the challenger's first) and the heuristics; nothing without traces.

    Each model may move what the thriftiest before it moved, the champion before the challenger.
    """
    if not traces:
        return ()
    lru, *others = _replay(traces, ["lru", *settings.heuristics], settings)
    heuristics = [_figures(result.policy, result) for result in others]
    allowed = min(figures.moved_bytes for figures in heuristics)
    found: list[Figures] = []
    for name, model in reversed([(name, model) for name, model in models.items() if model.device is not None]):
        found.insert(0, _within(traces, name, model, settings, allowed, lru.moved_bytes))
        allowed = min(allowed, found[0].moved_bytes)
    return (*found, *heuristics)


def _within(
    traces: Sequence[Trace], name: str, model: ReuseModel, settings: GateSettings, allowed: int, lru: int
) -> Figures:
    """The device's heads with a budget that keeps them at `allowed` bytes: on few steps it is overdrawn at first."""
    budget = allowed / lru if lru else 1.0
    for _ in range(_TRIES):
        (result,) = _replay(traces, [f"{DEVICE}@{max(LEAST_BUDGET, budget):.4f}"], settings, model)
        if result.moved_bytes <= allowed:
            break
        budget *= _TIGHTER * allowed / result.moved_bytes
    return _figures(name, result)


def judge(challenger: Figures, others: Iterable[Figures]) -> tuple[bool, str]:
    """Whether `challenger` has less stall at no more bytes than each of the others, and why (not)."""
    faults, beaten = [], []
    for other in others:
        beaten.append(other.contender)
        if challenger.stall_seconds >= other.stall_seconds:
            faults.append(f"stalls {challenger.stall_seconds:.4g} s, {other.contender} {other.stall_seconds:.4g} s")
        elif challenger.moved_bytes > other.moved_bytes:
            faults.append(f"moves {challenger.moved_bytes} bytes, {other.contender} {other.moved_bytes}")
    if faults:
        return False, "the challenger " + "; ".join(faults)
    return True, f"less stall at no more bytes than {', '.join(beaten)}"


def refuse_seen(traces: Iterable[Trace], trained_on: Iterable[str]) -> None:
    """Raise TrainingError if a sequence of `traces` overlaps with what the card says was trained on."""
    seen = [extent for text in trained_on if (extent := Extent.decode(text)) is not None]
    for trace in traces:
        for sequence in trace.sequences:
            extent = extent_of(sequence, trace.meta)
            if any(extent.overlaps(known) for known in seen):
                raise TrainingError(
                    f"sequence {sequence.sequence} of {trace.meta.source or trace.meta.model} was trained on; "
                    "the gate needs traces that were held out"
                )


def _replay(
    traces: Sequence[Trace], policies: Sequence[str], settings: GateSettings, model: ReuseModel | None = None
) -> list[ReplayResult]:
    return replay_many(traces, policies, ratio=settings.ratio, pool=settings.pool, model=model, link=settings.link)


def _figures(contender: str, result: ReplayResult) -> Figures:
    return Figures(
        contender=contender,
        demand_misses=result.demand_misses,
        miss_ratio=result.miss_ratio,
        moved_bytes=result.moved_bytes,
        stall_seconds=result.stall_seconds,
        gap_closed=result.gap_closed,
    )
