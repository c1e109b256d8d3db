"""What advice may do, how often it may speak, and how closely it measures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_STEPS = 1 << 20


class AdviceRules(BaseModel):
    """Bounds of advice. All times are counted in steps and in the microseconds that the runtime reports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="send advice; its figures are kept either way")
    concurrency: bool = Field(True, description="steer how many sequences run")
    least_concurrency: int = Field(1, ge=1, le=1 << 16, description="never ask for fewer")
    most_concurrency: int | None = Field(
        None, ge=1, le=1 << 16, description="never ask for more; unset: what the runtime can run"
    )
    pacing: bool = Field(True, description="steer how soon new sequences are admitted")
    shares: bool = Field(True, description="steer the slots of the hot set, where the runtime says what memory it has")
    device_bytes: int | None = Field(
        None, ge=1, description="memory that the processes of one device share; unset: each may use all it has"
    )
    trim: bool = Field(
        False, description="ask for the knee of the curve where nobody is known to need the rest; else only report it"
    )
    groups: bool = Field(True, description="name sequences that share pages")
    speak_every: int = Field(8, ge=1, le=MOST_STEPS, description="steps between two pieces of advice, at least")
    refused_every: int = Field(
        2048, ge=1, le=MOST_STEPS, description="the same for a runtime that does not follow advice"
    )
    groups_every: int = Field(64, ge=1, le=MOST_STEPS, description="steps between two looks at who shares what")
    block: int = Field(8, ge=1, le=1024, description="steps of one measurement of goodput")
    blocks: int = Field(12, ge=3, le=64, description="measurements by which a concurrency is judged, at most")
    settle: int = Field(16, ge=1, le=MOST_STEPS, description="steps to wait after a change before measuring")
    tolerance: float = Field(0.015, gt=0, lt=1, description="relative gains below this are not worth a change")
    hold: int = Field(512, ge=1, le=MOST_STEPS, description="steps to rest at the best before looking around, at least")
    look_share: float = Field(0.02, gt=0, lt=1, description="share of the time that looking around in vain may cost")
    knee: float = Field(
        0.01, gt=0, lt=1, description="at the knee, all the other slots together save this share of a step"
    )
    warm_share: float = Field(0.2, gt=0, lt=1, description="share of the time that warm-ups of new sequences may stall")
    half_life: int = Field(256, ge=1, le=MOST_STEPS, description="steps after which what was measured counts half")
    sample_pages: int = Field(8192, ge=64, le=1 << 20, description="pages that the ghost pool tracks, at most")
    sample_cells: int = Field(
        1 << 14, ge=1024, le=1 << 24, description="candidates that the ghost pool looks at in a step, up to twice"
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> AdviceRules:
        most = self.most_concurrency
        if most is not None and most < self.least_concurrency:
            raise ValueError(f"most_concurrency {most} is below least_concurrency {self.least_concurrency}")
        return self
