"""The demo with a tiny model: all of it happens, the summary adds up, and nothing on the report's pictures collides."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from sandbox import Hotset

from hotset.ops import samples
from hotset.ops.report.collect import PHASES, read_run, replay_rest
from hotset.ops.report.plots import draw_misses, draw_policies

pytestmark = pytest.mark.e2e
PATIENCE = 600.0
"""under a minute alone; beside the other half of the tests, on a slow machine, three were not enough"""


def texts(figure: Any) -> Iterator[tuple[str, Bbox]]:
    """Every text that is drawn, and where."""
    figure.canvas.draw()
    spare = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in beyond(axis)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in spare:
            yield text.get_text(), text.get_window_extent()


def beyond(axis: Any) -> list[Text]:
    """Labels of ticks that lie outside the axis, which are kept but not drawn."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]


def collisions(figure: Any) -> list[tuple[str, str]]:
    """Texts that overlap, or leave the picture; a pixel is forgiven."""
    drawn = list(texts(figure))
    inside = figure.bbox.padded(1)
    lost = [
        (name, "the border") for name, box in drawn if not inside.contains(*box.min) or not inside.contains(*box.max)
    ]
    pairs = itertools.combinations([(name, box.padded(-1)) for name, box in drawn], 2)
    return lost + [(a, b) for (a, one), (b, other) in pairs if one.overlaps(other)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows the commonest words of the demo's text."""
    folder = tmp_path_factory.mktemp("checkpoint")
    common = Counter(samples.long_text().split()).most_common(64)
    write_checkpoint(folder, [word for word, _ in common])
    return folder


@pytest.fixture
def demo(hotset: Hotset, checkpoint: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the demo in little, in `tmp_path/runs`, with more options."""
    common = ("--context", 1536, "--sequences", 2, "--learned-steps", 12, "--hbm-fraction", 0.09,
              "--runs", tmp_path / "runs")  # fmt: skip
    return lambda *options: hotset.run("demo", "--model", checkpoint, *common, *options, patience=PATIENCE)


def test_all_of_it_happens(demo: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    # Behind a slow link a tiny model's steps leave the cores to training.
    done = demo("--most-steps", 6000, "--link-gbps", 0.004)
    assert done.returncode == 0, done.stderr
    assert "tokens identical to untiered: True" in done.stdout
    (folder,) = (tmp_path / "runs").glob("2*")
    run = read_run(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert all(summary["phases"][phase]["steps"] > 0 for phase in PHASES)
    assert sum(p["steps"] for p in summary["phases"].values()) == summary["steps"] == len(run.steps)
    assert summary["phases"]["builtin"]["demand_misses"] > 0
    # A step waits for no less than the link takes for its misses; prefetches are among what was moved.
    heuristic = summary["phases"]["heuristic"]
    assert heuristic["stall_seconds"] > 0.5 * heuristic["moved_bytes"] / 0.004e9
    assert sum(p["moved_bytes"] for p in summary["phases"].values()) == summary["moved_bytes"]
    results = replay_rest(run)
    assert {r.policy for r in results} >= {"lru", "learned", "belady"}
    figures = draw_misses(run), draw_policies(results)
    assert [collisions(figure) for figure in figures] == [[], []]


def test_decoding_may_end_before_training_does(demo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A short decode, and more steps with the model than it has: the report says what there was."""
    done = demo("--most-steps", 300, "--hbm-fraction", 0.25, "--link-gbps", 0.01, "--learned-steps", 10000)
    assert done.returncode == 0, done.stderr
    assert "decoding ended after 299 steps" in " ".join(done.stdout.split())
    assert "--most-steps" in done.stdout
    assert "tokens identical to untiered: True" in done.stdout
