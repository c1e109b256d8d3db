"""The artificial link: what it carries takes its time, and demand goes before prefetch."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.host_link import HostLink

PROMPT = [(5 * i) % 89 + 1 for i in range(60)]
CONFIG: dict[str, Any] = {"page_size": 4, "selected": 6, "recent": 2, "max_tokens": 100, "max_sequences": 1,
                          "hbm_pages": 24}  # fmt: skip


def carry(link: HostLink, size: int, *, demand: bool) -> float:
    start = time.monotonic()
    with link.carrying(size, demand=demand):
        pass
    return time.monotonic() - start


@pytest.mark.parametrize("demand", [True, False])
def test_a_transfer_takes_no_less_than_latency_and_bytes_over_rate(demand: bool) -> None:
    link = HostLink(0.001, latency_us=3000)
    assert carry(link, 5000, demand=demand) >= 0.008
    carry(link, 0, demand=demand)
    assert link.busy_seconds == pytest.approx(0.008)


def test_transfers_follow_each_other() -> None:
    """Two at once take as long as one after the other."""
    link = HostLink(0.001)
    start = time.monotonic()
    threads = [threading.Thread(target=carry, args=(link, 6000), kwargs={"demand": d}) for d in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 0.012


def test_prefetch_waits_until_no_demand_does() -> None:
    """Ten pieces of prefetch queue behind one that is on its way; demand that comes then passes all of them."""
    link, order, under_way, noticed = HostLink(0.001), [], threading.Event(), threading.Event()

    def prefetch() -> None:
        for piece in range(11):
            with link.carrying(500, demand=False):
                order.append("prefetch")
                under_way.set()
                while piece == 0 and not link.demanded:
                    time.sleep(0.001)
                noticed.set()

    thread = threading.Thread(target=prefetch)
    thread.start()
    assert under_way.wait(10)
    with link.carrying(500, demand=True):
        order.append("demand")
        assert noticed.wait(10)  # or else the prefetch under way could miss a demand as short as this
    thread.join()
    assert order == ["prefetch", "demand", *10 * ["prefetch"]]


def test_a_copy_that_fails_lets_others_pass() -> None:
    link = HostLink(1.0)
    with pytest.raises(ValueError, match="copy"), link.carrying(10, demand=True):
        raise ValueError("the copy failed")
    carry(link, 10, demand=False)


def test_a_slow_link_makes_stalls_and_the_same_tokens(model: Any) -> None:
    found = []
    for gbps in (None, 0.002):
        decoder = Decoder(model, None, RuntimeConfig.checked(**CONFIG, link_gbps=gbps, link_latency_us=10.0))
        generation = decoder.open(PROMPT, max_new_tokens=8)
        reports = list(decoder.run())
        decoder.close()
        found.append(generation.tokens)
    assert found[0] == found[1]
    for report in reports:
        assert report.stall_seconds >= report.demand_misses * decoder.kv.manager.page_bytes / 0.002e9


def test_less_at_once_stalls_less(model: Any) -> None:
    """A pool that holds the working sets of two of four sequences: two at once move less for as many tokens."""
    moved = []
    for concurrency in (4, 2):
        options = {**CONFIG, "max_tokens": 400, "max_sequences": 4, "hbm_pages": 120}
        decoder = Decoder(model, None, RuntimeConfig.checked(**options))
        decoder.scheduler.advise(Advice(number=1, concurrency=concurrency))
        for shift in range(4):
            decoder.submit(PROMPT[shift:], max_new_tokens=25)
        moved.append(sum(r.demand_misses for r in decoder.run()))
        decoder.close()
    assert moved[1] < moved[0]
