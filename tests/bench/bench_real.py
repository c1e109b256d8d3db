"""A small real decode behind a slow link, and how far off the simulated node is.

    python tests/bench/bench_real.py [--out DIR] [--policy builtin|heuristic|learned] [--model MODEL] [--prompts 2]
        [--context 2000] [--tokens 80] [--hbm-fraction 0.35] [--link-gbps 0.5] [--link-latency-us 200] [--threads 2]

Starts a daemon that logs (and plans, unless the policy is builtin) and a `hotset decode` of the demo's model, each in a
process of its own, and then runs `hotset simulate --real` on the log. Takes a minute, most of it to start and prefill.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from hotset.ops import samples
from hotset.ops.demo.processes import Process
from hotset.ops.simulate.real import compare
from hotset.ops.simulate.table import print_real
from hotset.protos.errors import HotsetError
from hotset.training.registry import resolve_model

PATIENCE = 600


def main() -> None:
    """Decode, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--policy", choices=("builtin", "heuristic", "learned"), default="builtin")
    parser.add_argument("--model", help="for learned: a folder, or models:/NAME@ALIAS")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--max-running", type=int, help="of the prompts; the others wait, so that the batch changes")
    parser.add_argument("--context", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--hbm-fraction", type=float, default=0.35)
    parser.add_argument("--link-gbps", type=float, default=0.5)
    parser.add_argument("--link-latency-us", type=float, default=200.0)
    parser.add_argument("--threads", type=int, default=2)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hotset-real-") as folder:
        out = told.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        decode(told, out, Path(folder))
        print_real(compare(out, policy=told.policy, model=lambda: resolve_model(told.model), link_gbps=told.link_gbps))


def decode(told: argparse.Namespace, out: Path, private: Path) -> None:
    """Run daemon and decode to their ends; the daemon's log is below `out`."""
    environment = {"HOTSET_RUNTIME_DIR": str(private / "run")}
    plans = {"builtin": ["--plan-every", "0"], "heuristic": [], "learned": ["--model", told.model]}[told.policy]
    daemon = Process(
        ["daemon", "--once", "--log-dir", str(out / "daemon"), "--no-advice-enabled", *plans], out / "daemon.log",
        environment,
    )  # fmt: skip
    runtime = Process(["decode", *_arguments(told, out)], out / "decode.log", environment)
    try:
        if runtime.wait(PATIENCE):
            raise HotsetError(f"the decode failed; see {runtime.log}")
        daemon.wait(PATIENCE)
    finally:
        runtime.kill()
        daemon.kill()


def _arguments(told: argparse.Namespace, out: Path) -> list[str]:
    found: list[str] = ["--ignore-eos", "--out", str(out / "decode")]
    for number, text in enumerate(samples.split_text(samples.long_text(), told.prompts)):
        (file := out / f"prompt{number}.txt").write_text(text, encoding="utf-8")
        found += ["--prompt-file", str(file)]
    names = ("max_running", "context", "hbm_fraction", "link_gbps", "link_latency_us", "threads")
    return [
        *found, "--max-new-tokens", str(told.tokens),
        *(word for name in names if (value := getattr(told, name)) is not None
          for word in (f"--{name.replace('_', '-')}", str(value))),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
