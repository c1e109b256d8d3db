"""What a decode process can be told: sizes of pages, selections and pools, and which policies run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotset.protos.cores import usable_cores
from hotset.protos.errors import ConfigError

FEW_CORES = 2
"""With which one thread computes a decode step."""


class RuntimeConfig(BaseModel):
    """Residency options of a decode process. Sizes are in pages of one lane unless they say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page_size: Annotated[int, Field(ge=1, le=1024, description="tokens a page")] = 16
    selected: Annotated[int, Field(ge=2, description="k, pages attended to per lane and step")] = 32
    recent: Annotated[int, Field(ge=1, description="newest pages that are always selected")] = 4
    max_tokens: Annotated[int, Field(ge=1, description="tokens of all sequences together")] = 16384
    max_sequences: Annotated[int, Field(ge=1, description="open at once, paused ones included")] = 8
    max_running: Annotated[int | None, Field(ge=1, description="decoding at once; default: max_sequences")] = None
    hbm_fraction: Annotated[
        float, Field(gt=0, le=1, description="hot pool over the KV of max_tokens, but no less than decoding needs")
    ] = 0.25
    hbm_pages: Annotated[int | None, Field(ge=1, description="hot pool in pages; overrides hbm_fraction")] = None
    host_pages: Annotated[int | None, Field(ge=1, description="host frames; default: room for everything")] = None
    disk_dir: Annotated[Path | None, Field(description="folder of the disk tier; default: no disk tier")] = None
    selector: Literal["bounds", "mass"] = "bounds"
    policy: Literal["margin-ema", "score-ema", "lru"] = "margin-ema"
    prefill_chunk: Annotated[int, Field(ge=1, description="tokens a prefill pass; rounded up to pages")] = 512
    share_prefix: Annotated[bool, Field(description="prompts that begin alike share pages")] = True
    link_gbps: Annotated[float | None, Field(gt=0, description="slow the host link to so many 10^9 bytes/s")] = None
    link_latency_us: Annotated[float, Field(ge=0, description="of a transfer over the slowed link")] = 0.0
    lookahead: Annotated[int, Field(ge=0, le=2, description="layers to look ahead, 0 for not at all")] = 0
    lookahead_prefetch: Literal["learned", "bare", "off"] = "learned"
    tiered: Annotated[bool, Field(description="False: a GPU keeps everything in its memory, for comparison")] = True
    graphs: Annotated[bool, Field(description="on a GPU, replay whole steps from captured graphs")] = True
    step_threads: Annotated[
        int | None, Field(ge=1, description="of a CPU's decode step; default: 1 of two cores, torch's of more")
    ] = None
    run_ahead: Annotated[bool, Field(description="on a GPU, launch a step before the last tokens are read")] = True
    plan_lifetime: Annotated[int, Field(ge=1, description="steps that a plan's values outlive its epoch")] = 16

    @classmethod
    def checked(cls, **options: object) -> RuntimeConfig:
        """Build a config; raises ConfigError that lists every mistake on one line."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"invalid options: {mistakes}") from error

    @property
    def groups(self) -> int:
        """Page groups to provide for: `max_tokens`, and a partial page for each sequence."""
        return -(-self.max_tokens // self.page_size) + self.max_sequences

    def slots(self, layers: int, kv_heads: int) -> int:
        """Size of the hot pool in slots. A share is raised to what a step needs, a number is not."""
        everything = self.groups * layers * kv_heads
        wanted = self.hbm_pages or max(int(everything * self.hbm_fraction), self.smallest_pool(layers, kv_heads))
        return min(everything, wanted)

    @property
    def threads(self) -> int | None:
        """Threads that compute a decode step on a CPU, None for as many as torch has been told to use.

        Between its many small products two threads wait for each other, and lose more than the second brings.
        """
        return self.step_threads or (1 if usable_cores() <= FEW_CORES else None)

    @property
    def running(self) -> int:
        """Sequences that may decode at once."""
        return min(self.max_sequences, self.max_running or self.max_sequences)

    @property
    def chunk(self) -> int:
        """Tokens of a prefill pass: whole pages."""
        return -(-self.prefill_chunk // self.page_size) * self.page_size

    def smallest_pool(self, layers: int, kv_heads: int) -> int:
        """Slots below which `running` sequences cannot decode: their tails, and one selection per lane of a layer.

        If more may be open, one of them prefills its tail while the others keep theirs.
        """
        lanes, selections = layers * kv_heads, self.running * kv_heads * self.selected
        return self.running * lanes + (selections if self.running == self.max_sequences else max(selections, lanes))
