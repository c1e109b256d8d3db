"""What the daemon may steer inside the step, how often it may speak, and how closely it looks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MOST_STEPS = 1 << 20


class LookaheadRules(BaseModel):
    """Bounds of steering inside the step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    push: bool = Field(True, description="push the model's heads for the device to a runtime that takes them")
    steer: bool = Field(True, description="steer threshold and distance of each layer's lookahead")
    link_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="share of the link's rate that prefetches inside the step may fill",
    )
    least: float = Field(
        0.1,
        ge=0,
        le=1,
        description="never prefetch inside the step what is less likely used",
    )
    speak_every: int = Field(8, ge=1, le=MOST_STEPS, description="steps between two changes of thresholds, at least")
    trial: int = Field(48, ge=1, le=MOST_STEPS, description="steps for which the other lookahead distance is tried")
    rest: int = Field(512, ge=1, le=MOST_STEPS, description="steps between two trials of a distance, at least")
