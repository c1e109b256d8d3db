"""Messages leave in order, not while the loop is about to launch, and at any rate if no other step comes."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from hotset.runtime.gpu import outbox
from hotset.runtime.gpu.outbox import Outbox
from hotset.runtime.steering import Steering


class Heard(Steering):
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.lost = 0

    def publish(self, message: Any) -> None:
        self.heard.append(message)

    def lose_step(self) -> None:
        self.lost += 1


def until(heard: Heard, count: int) -> None:
    end = time.monotonic() + 20
    while len(heard.heard) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_is_put_before_a_launch_leaves_behind_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LONGEST_PAUSE", 60.0)
    box, heard = Outbox(), Heard()
    box.put(heard, lambda: 0)  # type: ignore[arg-type, return-value]
    until(heard, 1)
    for turn in range(1, 100, 3):
        box.pause()
        for i in range(3):
            box.put(heard, lambda n=turn + i: n)  # type: ignore[misc]
        assert len(heard.heard) == turn
        box.go()
        until(heard, turn + 3)
    box.close()
    assert heard.heard == list(range(100))


def test_it_leaves_if_no_other_step_comes() -> None:
    box, heard = Outbox(), Heard()
    box.pause()
    box.put(heard, lambda: 1)  # type: ignore[arg-type, return-value]
    box.put(heard, lambda: 2)  # type: ignore[arg-type, return-value]
    until(heard, 2)
    assert heard.heard == [1, 2]
    box.close()


def test_closing_sends_what_is_held_and_a_fault_costs_one_message(caplog: pytest.LogCaptureFixture) -> None:
    box, heard, threads = Outbox(), Heard(), threading.active_count()
    box.pause()
    box.put(heard, lambda: None)
    box.put(heard, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    box.put(heard, lambda: 3)  # type: ignore[arg-type, return-value]
    box.close()
    box.close()
    assert (heard.heard, heard.lost, threading.active_count()) == ([3], 1, threads)
    assert "could not be made" in caplog.text
