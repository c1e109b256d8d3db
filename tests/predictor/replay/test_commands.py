"""`hotset trace` and `hotset replay` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from hotset.ops.commands import replay, trace
from hotset.predictor.policies import POLICIES
from hotset.protos.errors import HotsetError
from hotset.training.errors import RegistryError


def _hotset(*words: object, columns: int = 120) -> Result:
    app = typer.Typer()
    trace.register(app)
    replay.register(app)
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": str(columns)})


def _objects(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_json_is_one_object_a_policy_and_line(sample_path: Path) -> None:
    found = _objects(_hotset("replay", sample_path, "--policy", "lru,belady", "--ratio", "2.0", "--json"))
    assert [r["policy"] for r in found] == ["lru", "belady"]
    wanted = {
        "policy", "accesses", "demand_misses", "miss_ratio", "prefetched_hits", "prefetched_pages",
        "moved_pages", "moved_bytes", "gap_closed", "stall_seconds", "replay_seconds",
    }  # fmt: skip
    assert all(wanted <= r.keys() for r in found)
    assert found[0]["accesses"] == 2 * 80 * 12 * 64


def test_the_default_is_every_heuristic(sample_path: Path) -> None:
    found = _objects(_hotset("replay", sample_path, "--pool", "shared", "--json"))
    assert {r["policy"] for r in found} == {name for name in POLICIES if not name.startswith(("learned", "lookahead"))}
    assert {r["pool"] for r in found} == {"shared"}


def test_all_are_those_that_can_run(sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model the learned ones are left out, each with a word; a model that was named has to be there."""
    monkeypatch.setenv("HOTSET_MLFLOW", f"sqlite:///{tmp_path}/none.db")
    result = _hotset("replay", sample_path, "--policy", "all", "--json")
    assert {r["policy"] for r in _objects(result)} == {name for name in POLICIES if not name.startswith("learned")}
    assert "left out: learned-device, which needs a model" in result.stderr
    named = _hotset("replay", sample_path, "--policy", "all", "--model", "models:/mine@champion")
    assert isinstance(named.exception, RegistryError)


def test_a_narrow_table_cuts_no_name(sample_path: Path) -> None:
    result = _hotset("replay", sample_path, "--policy", "lookahead-top", columns=80)
    assert "…" not in result.stdout


def test_link_options_reach_the_model(sample_path: Path) -> None:
    options = ("--policy", "lru", "--json", "--link-gbps", 1, "--link-latency-us", 0, "--layer-us", 7)
    (found,) = _objects(_hotset("replay", sample_path, *options))
    assert found["stall_seconds"] == pytest.approx(int(str(found["demand_misses"])) * 4096 / 1e9)


def test_table_and_plot(sample_path: Path, tmp_path: Path) -> None:
    result = _hotset("replay", sample_path, "--policy", "lru", "--ratio", "2", "--plot", tmp_path / "p.html")
    assert result.exit_code == 0
    assert "lane pool, 122,880 accesses" in result.stdout
    assert (tmp_path / "p.html").read_text(encoding="utf-8").count("<tr>") > 2  # drawn at more ratios than asked for


def test_a_plot_over_bytes_has_lru_to_compare_with_and_one_line_for_all_budgets(
    sample_path: Path, tmp_path: Path
) -> None:
    options = (
        "--policy",
        "lookahead-top@0.5,lookahead-top@1",
        "--over",
        "bytes",
        "--plot",
        tmp_path / "b.html",
        "--json",
    )
    found = _objects(_hotset("replay", sample_path, *options))
    assert [r["policy"] for r in found] == ["lookahead-top@0.5", "lookahead-top@1"]
    page = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "<td>lru</td>" in page
    assert page.count("<!-- lookahead-top -->") == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--policy", "mru"), "no policy 'mru'"),
        (("--policy", ","), "no policy"),
        (("--ratio", "two"), "give a number"),
        (("--ratio", "0.5"), "1 or more"),
        (("--pool", "big"), "choose lane or shared"),
        (("--plot", "x.gif"), "a plot is"),
        (("--over", "time"), "choose ratio or bytes"),
        (("--link-gbps", "0"), "link model"),
    ],
)
def test_mistakes_are_named(options: tuple[str, ...], what: str, sample_path: Path) -> None:
    result = _hotset("replay", sample_path, *options)
    assert isinstance(result.exception, HotsetError)
    assert what in str(result.exception)


def test_import_then_info(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    meta = {
        "model": "m",
        "kind": "code",
        "prompt_tokens": 90,
        "steps": 3,
        "page": 4,
        "k": 2,
        "layers": 1,
        "kv_heads": 2,
    }
    ids = np.sort(rng.permuted(np.tile(np.arange(20), (3, 1, 2, 1)), axis=-1)[..., :4], axis=-1)
    np.savez(
        tmp_path / "a.npz",
        did=np.diff(ids, axis=-1, prepend=0).astype(np.uint16),
        sel=np.full((3, 1, 2, 1), 0b11000000, np.uint8),
        score=np.zeros((3, 1, 2, 4), np.uint8),
        meta=np.array(json.dumps(meta)),
    )
    target = tmp_path / "a.parquet"
    imported = _hotset("trace", "import", tmp_path / "a.npz", target)
    assert "1 sequences of m, 2 lanes" in imported.stdout
    (found,) = _objects(_hotset("trace", "info", target, "--json"))
    assert found["sequences"] == [
        {
            "sequence": 0, "prompt_tokens": 90, "steps": 3, "gaps": 0, "last_length": 93, "pages": 24,
            "accesses": 12, "overlap": pytest.approx(_overlap(ids)), "lookahead": [],
        }
    ]  # fmt: skip
    assert "93" in _hotset("trace", "info", target).stdout
    assert isinstance(_hotset("trace", "import", target).exception, HotsetError)


def _overlap(ids: np.ndarray) -> float:
    """Of the first two candidates of each lane, which the test selects."""
    pairs = [(set(ids[t, 0, h, :2]), set(ids[t + 1, 0, h, :2])) for t in range(2) for h in range(2)]
    return sum(len(a & b) for a, b in pairs) / (2 * len(pairs))
