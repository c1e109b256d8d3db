"""Many simulations at once: every combination of what was given several values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from typing import Any

from hotset.ops.simulate.node import Node
from hotset.ops.simulate.run import POLICIES, Job, Load, simulate
from hotset.protos.errors import ConfigError, HotsetError

AXES = ("policy", *Node.model_fields, *(f.name for f in fields(Load)))
_TEXT = ("policy", "builtin", "arrivals")


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """`name=value,value,...`, names with - or _. Raises ConfigError that lists the names."""
    name, sign, values = text.partition("=")
    key = name.strip().replace("-", "_")
    if not sign or key not in AXES:
        raise ConfigError(f"--sweep {text!r}: give NAME=VALUE,VALUE,... with a name of {', '.join(AXES)}")
    return key, parse_values(key, values)


def parse_values(name: str, text: str) -> list[Any]:
    """Values separated by commas, each once. Raises ConfigError if one is no number where there should be one."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise ConfigError(f"{name}: no value in {text!r}")
    if name in _TEXT:
        return parts
    try:
        return [int(part) if part.lstrip("-").isdigit() else float(part) for part in parts]
    except ValueError:
        raise ConfigError(f"{name}={text!r}: give a number, or several separated by commas") from None


def jobs_of(base: Job, axes: Mapping[str, Sequence[Any]]) -> list[Job]:
    """Every combination, the last axis fastest. Raises ConfigError for a value that cannot be."""
    return [_with(base, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def run_jobs(
    jobs: Sequence[Job], processes: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[dict[str, Any]]:
    """A report a job, in order. Where several run, one that has no room is reported with its `error`."""
    progress(0, len(jobs))
    alone = len(jobs) == 1
    if processes <= 1 or alone:
        for done, job in enumerate(jobs, start=1):
            yield _run(job, alone)
            progress(done, len(jobs))
        return
    # Forking would copy Arrow's threads half-way.
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn")) as pool:
        for done, report in enumerate(pool.map(_run, jobs), start=1):
            yield report
            progress(done, len(jobs))


def _run(job: Job, alone: bool = False) -> dict[str, Any]:
    try:
        return simulate(job)[1]
    except HotsetError as error:
        if alone:
            raise
        asked = {name: value for name, value in job.node.model_dump().items() if value is not None}
        return {"policy": job.policy, "controller": job.controller, **asked, "error": str(error)}


def _with(base: Job, values: Mapping[str, Any]) -> Job:
    policy = values.get("policy", base.policy)
    if policy not in POLICIES:
        raise ConfigError(f"unknown policy {policy!r}; choose one of {', '.join(POLICIES)}")
    node = {name: value for name, value in values.items() if name in Node.model_fields}
    load = {name: value for name, value in values.items() if name not in (*node, "policy")}
    if node:
        node = {**base.node.model_dump(), **node}
    return replace(
        base, policy=policy, load=replace(base.load, **load), node=Node.checked(**node) if node else base.node
    )
