"""The trace log: what a recorded decode holds, as columns. One format for runtime logs and imported traces.

A trace log is a Parquet file, or a folder of Parquet parts in name order. Each row is one lane at one step
of one sequence: candidates with scores, and which of them were selected, hit or prefetched. File metadata
under the key `METADATA_KEY` holds a `TraceMeta` as JSON. A log of a daemon also holds, under `STEPS_KEY`, what the
runtime said of the steps in this file: a JSON map of `STEP_COLUMNS` to lists of integers, one for each step.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TRACE_VERSION = 1
METADATA_KEY = b"hotset"
STEPS_KEY = b"hotset.steps"

# name -> (arrow type, meaning); list types have `candidates` items a row, padded with -1 (pages) or 0.
COLUMNS: dict[str, tuple[str, str]] = {
    "sequence": ("int64", "sequence id, unique in the log"),
    "step": ("int32", "decode step of the sequence, from 0"),
    "epoch": ("int64", "step of the whole batch, shared by its sequences"),
    "length": ("int32", "tokens in the sequence at this step, the new one included"),
    "layer": ("int16", "decoder layer"),
    "head": ("int16", "KV head"),
    "pages": ("list<int32>", "logical page numbers of the candidates"),
    "scores": ("list<uint8>", "page attention mass m as 255 + 8*log2(m), clipped to 0..255"),
    "flags": ("list<uint8>", "bits of messages.AccessFlag"),
}
# Present only where a lookahead was recorded: pages ranked by a query estimated d layers early, -1 none.
LOOKAHEAD_COLUMNS: dict[str, tuple[str, str]] = {
    "lookahead_1": ("list<int32>", "pages in rank order, chosen one layer early"),
    "lookahead_2": ("list<int32>", "pages in rank order, chosen two layers early"),
}

# Of the whole batch; all but the first and the last are fields of messages.StepStats.
STEP_COLUMNS: dict[str, str] = {
    "epoch": "step of the batch",
    "step_us": "its length, microseconds",
    "stall_us": "of it, attention waited for movement",
    "demand_pages": "loaded on a miss",
    "prefetch_pages": "made resident by a prefetch",
    "moved_bytes": "over the host link",
    "written_pages": "sealed and written through",
    "waiting": "requests that waited for admission",
    "paused": "sequences that held their pages and did not run",
    "hot_slots": "that the hot set might use, 0 for all",
    "plans_applied": "since the session began",
    "planner": "who planned for it: 0 nobody, 1 a heuristic, 2 a learned model",
}


class TraceMeta(BaseModel):
    """What a trace was recorded from. Unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = TRACE_VERSION
    model: str
    kind: str = ""
    layers: Annotated[int, Field(ge=1)]
    kv_heads: Annotated[int, Field(ge=1)]
    page_size: Annotated[int, Field(ge=1)]
    selected: Annotated[int, Field(ge=1)]
    candidates: Annotated[int, Field(ge=1)]
    page_bytes: Annotated[int, Field(ge=1)]
    prompt_tokens: dict[int, int] = Field(default_factory=dict)
    session: str = ""
    source: str = ""
    slots: Annotated[int, Field(ge=0, description="of the hot pool, 0 if unknown")] = 0
    builtin: Annotated[str, Field(description="policy where nobody planned, empty if unknown")] = ""
