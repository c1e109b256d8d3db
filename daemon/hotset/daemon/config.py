"""What a daemon can be told: each key with its bounds, its help, and whether it may change at run time.

Where the values come from is `hotset.daemon.settings`; the flags of `hotset daemon` and the table of
docs/daemon.md are made from this module. Imports nothing heavy: the command line needs it for its help.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from hotset.daemon.advice.rules import AdviceRules
from hotset.daemon.instep.rules import LookaheadRules


@dataclass(frozen=True)
class Option:
    """How a key shows: its `group` in the help, and whether a running daemon takes it on SIGHUP (`live`)."""

    group: str
    live: bool = False
    flag: str = ""
    """Empty: made from the key."""


_WHERE = Option("Where")
_MODEL = Option("Model and training")
_TRAINING = Option("Model and training", live=True)
_PLANS = Option("Plans", live=True)
_MEMORY = Option("Memory and cores")
_LOG = Option("Trace log")
_WATCH = Option("Watching it")
_OTHER = Option("Other")


CORES_A_LEARNER = 4
"""The decode loop, its link, whoever scores and trains, and the log want cores as well."""
MOST_LEARNERS = 8


def _words(value: Any) -> Any:
    """A variable or a flag holds one text, quoted as for a shell."""
    return shlex.split(value) if isinstance(value, str) else value


class PlanRules(BaseModel):
    """How wide and how long a plan looks, and what is worth a prefetch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizon: int = Field(4, ge=1, description="steps after which a plan is worthless")
    recent: int = Field(4, ge=0, description="prefetch only what was a candidate within so many steps")
    margin: float = Field(
        1.0, allow_inf_nan=False,
        description="how much hotter than the page it pushes out a prefetch must be; 1: half the time to next use",
    )  # fmt: skip
    rows: int = Field(
        1 << 15, ge=1, description="pages scored in one plan at most, about; beyond that the lanes take turns"
    )
    flight_us: float = Field(
        20.0, ge=0, le=1e6, allow_inf_nan=False,
        description="what a prefetch costs the runtime, however few its pages; fewer than the link brings in that time "
        "are left to come when they are missed",
    )  # fmt: skip
    near: float = Field(
        0.25, gt=0, le=1, description="share of the resident pages, the coldest, that is scored where not all can be"
    )


class DaemonConfig(BaseModel):
    """Options of one daemon. Tables, as `rules`, are models of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    log_dir: Annotated[Path, _WHERE] = Field(Path("runs/daemon"), description="where each session gets a folder")
    name: Annotated[str, _WHERE] = Field(
        "hotset-daemon", min_length=1, max_length=64, description="what decode processes call this daemon"
    )
    pid: Annotated[int | None, _WHERE] = Field(None, ge=1, description="serve only this process, and end with it")
    endpoint: Annotated[str | None, _WHERE] = Field(
        None, max_length=1024, description="serve the runtime that listens here instead of watching the runtime folder"
    )
    keys: Annotated[Path | None, _WHERE] = Field(
        None, description="folder with client.key_secret and server.key, for a tcp:// endpoint"
    )
    once: Annotated[bool, _WHERE] = Field(False, description="end when the sessions that were found have ended")
    poll_seconds: Annotated[float, Option("Where", live=True)] = Field(
        0.3, gt=0, le=60, description="how often to look for decode processes"
    )
    answer_seconds: Annotated[float, Option("Where", live=True)] = Field(
        10.0, gt=0, description="give up an endpoint whose process we cannot see after so much silence"
    )

    model: Annotated[Path | None, _MODEL] = Field(
        None, description="plan with this model: a folder, or models:/NAME@ALIAS from the registry"
    )
    resume: Annotated[bool, _MODEL] = Field(
        True, description="take up the models that were in service when a daemon last stopped on this log_dir"
    )
    train: Annotated[bool, _TRAINING] = Field(False, description="train on the log, in a child process")
    train_after: Annotated[int, _TRAINING] = Field(200, ge=1, description="logged sequence steps before that")
    train_every: Annotated[int, _TRAINING] = Field(
        0, ge=0, description="logged sequence steps between later trainings; 0: train once"
    )
    train_arguments: Annotated[
        tuple[str, ...], BeforeValidator(_words), Option("Model and training", live=True, flag="--train-argument")
    ] = Field((), description="passed on to the training job")
    train_niceness: Annotated[int, _TRAINING] = Field(
        15, ge=0, le=19, description="of the training child; a higher one leaves more to whoever decodes here"
    )
    swap: Annotated[Literal["promoted", "always"], _TRAINING] = Field(
        "promoted", description="swap in models that beat the heuristics, or any"
    )

    plan_every: Annotated[int, _PLANS] = Field(1, ge=0, description="plan on every so manieth step; 0: never")
    link_gbps: Annotated[float | None, _PLANS] = Field(
        None, gt=0, allow_inf_nan=False, description="rate of the host link in 10^9 bytes/s; unset: measured"
    )
    rules: Annotated[PlanRules, _PLANS] = PlanRules()
    advice: Annotated[AdviceRules, Option("Advice")] = AdviceRules()
    lookahead: Annotated[LookaheadRules, Option("Inside the step")] = LookaheadRules()

    state_bytes: Annotated[int, _MEMORY] = Field(
        8 << 30, ge=1 << 20, description="most memory for what is remembered of pages, a decode process"
    )
    table_bytes: Annotated[int, _MEMORY] = Field(
        1 << 30,
        ge=1 << 16,
        description="most memory for page tables, a decode process; sequences beyond it are not steered",
    )
    idle_steps: Annotated[int, _MEMORY] = Field(
        512, ge=1, description="steps after which a sequence that rests keeps no features"
    )

    learn_threads: Annotated[int | None, _MEMORY] = Field(
        None, ge=1, le=64,
        description="threads that learn steps; unset: "
        f"one for every {CORES_A_LEARNER} cores, {MOST_LEARNERS} at most",
    )  # fmt: skip

    record: Annotated[bool, _LOG] = Field(True, description="log steps; without a log there is nothing to train on")
    rows_per_part: Annotated[int, _LOG] = Field(1 << 17, ge=1, description="rows of one file of the log")
    flush_seconds: Annotated[float, _LOG] = Field(
        10.0, gt=0, description="a daemon that is killed loses at most this much of its log"
    )

    metrics_port: Annotated[int | None, _WATCH] = Field(
        None, ge=0, lt=1 << 16, description="serve /metrics, /healthz and /readyz on this port; 0: any free one"
    )
    metrics_host: Annotated[str, _WATCH] = Field(
        "127.0.0.1", min_length=1, description="address to serve them on; 0.0.0.0 or :: for all"
    )
    log_format: Annotated[Literal["text", "json"], _WATCH] = Field("text", description="lines on stderr")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Option("Watching it", live=True)] = Field(
        "info", description="least level that is logged"
    )

    @model_validator(mode="after")
    def _check_together(self) -> DaemonConfig:
        if wrong := conflicts(self.model_dump()):
            raise ValueError("; ".join(wrong))
        return self


def conflicts(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with values that are right each by itself."""
    wrong = []
    if values.get("pid") is not None and values.get("endpoint") is not None:
        wrong.append("pid and endpoint exclude each other: name one of them")
    return wrong


class Key(NamedTuple):
    """One value that can be set: `path` in the file ("rules.horizon"), and what the model says of it."""

    path: str
    field: FieldInfo
    option: Option

    @property
    def flag(self) -> str:
        """As given to `hotset daemon`."""
        return self.option.flag or "--" + self.path.replace("_", "-").replace(".", "-")

    @property
    def variable(self) -> str:
        """As set in the environment."""
        return ENV_PREFIX + self.path.replace(".", ENV_NESTED).upper()


ENV_PREFIX = "HOTSET_"
ENV_NESTED = "__"


def _keys(model: type[BaseModel], prefix: str = "", option: Option = _OTHER) -> Iterator[Key]:
    """Keys of `model` and its tables; `option` holds for those that state none themselves."""
    for name, field in model.model_fields.items():
        own = next((m for m in field.metadata if isinstance(m, Option)), option)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.", own)
        else:
            yield Key(prefix + name, field, own)


KEYS: dict[str, Key] = {key.path: key for key in _keys(DaemonConfig)}


def value_of(config: BaseModel, path: str) -> Any:
    """The value of a key, as "rules.horizon"."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def with_live(old: DaemonConfig, new: DaemonConfig) -> tuple[DaemonConfig, list[str], list[str]]:
    """`old` with what may change at run time taken from `new`; paths that changed, and that would need a restart."""
    differing = [path for path in KEYS if value_of(old, path) != value_of(new, path)]
    changed = [path for path in differing if KEYS[path].option.live]
    values = old.model_dump()
    for path in changed:
        *tables, last = path.split(".")
        table = values
        for name in tables:
            table = table[name]
        table[last] = value_of(new, path)
    return DaemonConfig.model_validate(values), changed, [path for path in differing if path not in changed]
