"""What a daemon can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hotset.daemon.planner import PlanRules
from hotset.protos.transport import CurveKeys


class DaemonConfig(BaseModel):
    """Options of one daemon; `rules` shape its plans."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")

    log_dir: Path = Path("runs/daemon")
    name: Annotated[str, Field(max_length=64)] = "hotset-daemon"
    pid: int | None = None
    """Serve this process only, and end with it."""
    endpoint: str | None = None
    """Serve the runtime that listens here instead of watching the runtime folder."""
    keys: CurveKeys | None = None
    once: bool = False
    """End when the sessions that were found have ended."""
    model: Path | None = None
    """A model folder to plan with from the start."""
    train: bool = False
    train_after: Annotated[int, Field(ge=1)] = 200
    """Logged sequence steps before the first training."""
    train_every: Annotated[int, Field(ge=0)] = 0
    """Logged sequence steps between later trainings; 0 trains once."""
    train_arguments: tuple[str, ...] = ()
    """Passed on to the training job."""
    swap: Literal["promoted", "always"] = "promoted"
    """Whether a model that did not win against the heuristics may plan."""
    plan_every: Annotated[int, Field(ge=1)] = 1
    link_gbps: Annotated[float, Field(gt=0)] | None = None
    rules: PlanRules = PlanRules()
    record: bool = True
    """Whether steps are logged; without a log there is nothing to train on."""
    rows_per_part: Annotated[int, Field(ge=1)] = 1 << 17
    flush_seconds: Annotated[float, Field(gt=0)] = 10.0
    """A daemon that is killed loses at most this much of its log."""
    metrics_port: Annotated[int, Field(ge=0, lt=1 << 16)] | None = None
    poll_seconds: Annotated[float, Field(gt=0)] = 0.3
    answer_seconds: Annotated[float, Field(gt=0)] = 10.0
    """A runtime that we cannot see the process of is given up after this much silence."""
