"""A real decode under all faults at once: the tokens are those of a decode that is left alone."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from attacker import Attacker
from sandbox import Hotset, until
from sizes import EMBEDDED, MESSAGES, ROUNDS, SEED

from hotset.daemon.connection import Connection
from hotset.protos.transport import ZmqClient

pytestmark = pytest.mark.e2e
TURNS = max(3, ROUNDS // 5)
MOST = 6000
"""Tokens that nobody waits for: the decode is told to end when all faults have happened."""


@pytest.fixture
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[object]:
    """Of a small decode: the demo's model with 256 tokens of context, or two prompts to a tiny model."""
    common = ["--page-size", 8, "--selected", 8, "--hbm-fraction", 0.4, "--threads", 1, "--ignore-eos"]
    prompt = tmp_path / "prompt.txt"
    if EMBEDDED:
        prompt.write_text("The history of the sea is the history of trade. " * 40)
        return ["decode", "--prompt-file", prompt, "--context", 256, "--max-new-tokens", MOST, *common]
    prompt.write_text(" ".join(f"w{(j * j + 3) % 64}" for j in range(300)))
    checkpoint = request.getfixturevalue("checkpoint")
    return ["decode", "--model", checkpoint, "--prompt-file", prompt, "--max-new-tokens", MOST, *common]


def test_tokens_under_every_fault(hotset: Hotset, arguments: list[object], tmp_path: Path) -> None:
    """Daemons killed and stopped, the decode stopped, garbage, and an observer that never reads."""
    decode = hotset.start(*arguments, "--out", tmp_path / "faulty")
    endpoint = hotset.endpoint(decode)
    deaf = Connection(ZmqClient(endpoint, high_water_mark=1), "deaf")
    deaf.attach("observer")
    attacker, daemon, chance = Attacker(endpoint, SEED), hotset.daemon("--flush-seconds", 0.2), random.Random(SEED)
    for _ in range(TURNS):
        daemon = _round(hotset, attacker, decode, daemon, chance)
    decode.terminate()
    assert decode.wait(60) == 0, hotset.said(decode)
    attacker.close()
    deaf.close()
    (found,) = _tokens(tmp_path / "faulty")
    assert 20 <= len(found) < MOST
    arguments[arguments.index(MOST)] = len(found)
    alone = hotset.run(*arguments, "--no-listen", "--untiered", "--out", tmp_path / "alone", patience=1200)
    assert alone.returncode == 0, alone.stderr
    assert _tokens(tmp_path / "alone") == [found]
    applied = json.loads((tmp_path / "faulty" / "decode.json").read_text())["moved"]["entries_applied"]
    assert applied > 0
    print(f"{TURNS} rounds, {len(found)} tokens, {applied} entries applied, {attacker.frames} fuzzed frames")


def _round(
    hotset: Hotset,
    attacker: Attacker,
    decode: subprocess.Popen[str],
    daemon: subprocess.Popen[str],
    chance: random.Random,
) -> subprocess.Popen[str]:
    """One fault of each kind; returns the daemon that lives now."""
    attacker.attack(min(1000, MESSAGES // TURNS))
    for process in (daemon, decode):
        process.send_signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0.02, 0.2))
        process.send_signal(signal.SIGCONT)
    time.sleep(chance.uniform(0, 0.5))
    daemon.kill()
    daemon.wait()
    return hotset.daemon("--flush-seconds", 0.2)


def test_a_killed_decode_is_repeated_under_the_same_daemon(
    hotset: Hotset, arguments: list[object], tmp_path: Path
) -> None:
    """What a killed decode left behind (files, a lease, a session) changes nothing of the next one."""
    hotset.daemon()
    arguments[arguments.index(MOST)] = 200
    first = hotset.start(*arguments, "--out", tmp_path / "first")
    until(lambda: hotset.statuses() and hotset.statuses()[0]["role"] == "controller", 300)
    first.kill()
    first.wait()
    again = hotset.run(*arguments, "--check", "--json", patience=1200)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["tokens_identical_to_untiered"]
    assert len(hotset.statuses()) == 2


def _tokens(out: Path) -> list[list[int]]:
    return [sequence["tokens"] for sequence in json.loads((out / "decode.json").read_text())["sequences"]]
