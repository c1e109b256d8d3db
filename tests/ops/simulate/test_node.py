"""Nodes that serve another model than was recorded, and nodes out of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.node import Memory, Node
from hotset.ops.simulate.nodes import load_node, node_names
from hotset.ops.simulate.run import Job, simulate
from hotset.ops.simulate.workload import tile
from hotset.predictor.trace import Trace
from hotset.protos.errors import ConfigError

SERVED = Node(
    layers=32, kv_heads=8, token_bytes=512, context=131072, hbm_gib=112.6, page_state_bytes=33, link_gbps=55.4,
    link_latency_us=11, step_us=4380, sequence_us=37, ktoken_us=2.29, lookahead_us=9.2, lookahead_ktoken_us=0.07,
)  # fmt: skip


def test_recorded_lanes_stand_for_those_of_the_model_served(sample: Trace) -> None:
    """A step waits and moves as one of the model would whose every lane missed as often as the recorded ones."""
    meta, node = SERVED.stand_for(sample.meta)
    assert meta.page_bytes * meta.layers * meta.kv_heads == pytest.approx(256 * 16 * 512, rel=1e-4)
    assert meta.layers * node.wait_us(10, meta.page_bytes) == pytest.approx(
        32 * 11 + meta.layers * 10 * (256 / 12) * 16 * 512 / 55.4e3, rel=1e-4
    )
    assert meta.layers * node.ahead_us(2) == pytest.approx(32 * (9.2 + 2 * 128 * 0.07))
    assert node.compute_us(3) == 4380 + 3 * (37 + 128 * 2.29)
    assert node.stand_for(meta) == (meta, node)


def test_memory_is_that_of_the_context(sample: Trace) -> None:
    meta, node = SERVED.stand_for(sample.meta)
    load = tile(meta, sample.sequences, sequences=100, tokens=2)
    memory = Memory(node, load)
    assert memory.kv_bytes == pytest.approx(131072 * 256 * 512, rel=1e-3)
    assert memory.sequence_bytes == pytest.approx(131072 * 256 * (512 + 33) / 16, rel=1e-3)
    assert memory.whole_sequences == int(112.6 * 2**30 // (memory.kv_bytes + memory.sequence_bytes)) == 6
    assert memory.max_sequences > 80


def test_what_all_kv_in_memory_would_give_is_reported(sample: Trace) -> None:
    load = tile(sample.meta, sample.sequences, sequences=2, tokens=2)
    report = simulate(Job((), node=SERVED), load)[1]
    assert report["whole_sequences"] == 6
    assert report["whole_tokens_per_second"] == pytest.approx(6e6 / SERVED.compute_us(6))
    assert report["moved_bytes"] == pytest.approx(report["demand_misses"] * 256 / 12 * 16 * 512, rel=1e-4)
    assert simulate(Job((), node=Node(ratio=2)), load)[1]["whole_sequences"] is None


def test_a_model_told_in_part_is_a_mistake(sample: Trace) -> None:
    with pytest.raises(ConfigError, match="give layers, kv_heads and token_bytes"):
        Node(layers=32).stand_for(sample.meta)


def test_nodes_that_come_with_hotset_run(sample: Trace) -> None:
    for name in node_names():
        meta, node = Node.checked(**load_node(name)).stand_for(sample.meta)
        assert Engine(tile(meta, sample.sequences, sequences=2, tokens=2), node).run().report()["tokens"] == 4


def test_compute_of_the_gpu_server_is_what_was_measured() -> None:
    """Arm 2k of docs/bench/decode-llama.json: 32,768 tokens, k = 128, 64 pages of 8 KiB more than the node reads."""
    node = Node.checked(**load_node("h200-llama3-8b") | {"context": 32768})
    recorded = json.loads((Path(__file__).parents[3] / "docs/bench/decode-llama.json").read_text(encoding="utf-8"))
    (rows,) = recorded["tables"].values()
    measured = {row["batch"]: row for row in rows if row["arm"] == "2k"}
    assert sorted(measured) == [1, 2, 4, 8, 16, 24]
    for batch, row in measured.items():
        pages_us = batch * 64 * 8192 * 256 / 3.67e6
        assert node.compute_us(batch) + pages_us == pytest.approx(1e3 * row["compute ms"], rel=0.035)
    # Latency and bandwidth alone, for the misses that were counted.
    for batch, most in ((1, 0.45), (8, 0.1), (24, 0.1)):
        stall_us = sum(node.wait_us(measured[batch]["misses"] / 32, 8192) for _ in range(32))
        assert stall_us == pytest.approx(1e3 * measured[batch]["stall ms"], rel=most)


def test_a_file_is_a_node_and_mistakes_in_it_are_named(tmp_path: Path) -> None:
    (file := tmp_path / "mine.toml").write_text("hbm_gib = 80\nlink_gbps = 25.0\n", encoding="utf-8")
    assert load_node(str(file)) == {"hbm_gib": 80, "link_gbps": 25.0}
    file.write_text("colour = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="a node has no colour; it has concurrency"):
        load_node(str(file))
    file.write_text("colour\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not TOML"):
        load_node(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_node(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="no node 'b200'; give h200-llama3-8b, or a file"):
        load_node("b200")
