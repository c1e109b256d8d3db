"""Page-at-a-time replay equals independent caches, access by access: cachetools, or plain Python.

The plain-Python caches are written from the papers' pseudo-code with ordinary containers and share nothing with
the compiled policies. Each is made with a capacity and called with a page; it returns whether the access missed.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence

import cachetools
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.predictor.replay import replay_pages
from hotset.predictor.trace import Trace

Access = Callable[[int], bool]


def lru(capacity: int) -> Access:
    cache = cachetools.LRUCache[int, bool](capacity)

    def access(page: int) -> bool:
        missed = page not in cache
        cache[page] = cache.get(page, True)
        return missed

    return access


def clock(capacity: int) -> Access:
    frames: list[list[int]] = []  # [page, bit]
    hand = 0

    def access(page: int) -> bool:
        nonlocal hand
        for frame in frames:
            if frame[0] == page:
                frame[1] = 1
                return False
        if len(frames) < capacity:
            frames.append([page, 0])
            return True
        while frames[hand][1]:
            frames[hand][1] = 0
            hand = (hand + 1) % capacity
        frames[hand] = [page, 0]
        hand = (hand + 1) % capacity
        return True

    return access


def sieve(capacity: int) -> Access:
    queue: list[int] = []  # oldest first
    visited: dict[int, bool] = {}
    hand: int | None = None

    def access(page: int) -> bool:
        nonlocal hand
        if page in visited:
            visited[page] = True
            return False
        if len(queue) == capacity:
            at = 0 if hand is None else queue.index(hand)
            while visited[queue[at]]:
                visited[queue[at]] = False
                at = (at + 1) % len(queue)
            gone = queue.pop(at)
            del visited[gone]
            hand = queue[at] if at < len(queue) else None
        queue.append(page)
        visited[page] = False
        return True

    return access


def s3fifo(capacity: int) -> Access:
    small, main, ghost = deque[int](), deque[int](), OrderedDict[int, None]()
    freq: dict[int, int] = {}
    share = max(1, capacity // 10)

    def evict_main() -> None:
        while True:
            page = main.popleft()
            if not freq[page]:
                del freq[page]
                return
            freq[page] -= 1
            main.append(page)

    def evict_small() -> None:
        while small:
            page = small.popleft()
            if freq[page] <= 1:
                del freq[page]
                ghost[page] = None
                if len(ghost) > capacity - share:
                    ghost.popitem(last=False)
                return
            main.append(page)
            if len(main) > capacity - share:
                evict_main()
                return

    def access(page: int) -> bool:
        if page in freq:
            freq[page] = min(freq[page] + 1, 3)
            return False
        while len(small) + len(main) >= capacity:
            if len(small) >= share:
                evict_small()
            else:
                evict_main()
        if page in ghost:
            del ghost[page]
            main.append(page)
        else:
            small.append(page)
        freq[page] = 0
        return True

    return access


def arc(c: int) -> Access:
    t1, t2, b1, b2 = (OrderedDict[int, None]() for _ in range(4))  # LRU first
    p = 0.0

    def replace(in_b2: bool) -> None:
        if t1 and (len(t1) > p or (in_b2 and len(t1) == p)):
            b1[t1.popitem(last=False)[0]] = None
        else:
            b2[t2.popitem(last=False)[0]] = None

    def access(page: int) -> bool:
        nonlocal p
        if page in t1 or page in t2:
            (t1 if page in t1 else t2).pop(page)
            t2[page] = None
            return False
        if page in b1:
            p = min(c, p + (1 if len(b1) >= len(b2) else len(b2) / len(b1)))
            replace(False)
            del b1[page]
            t2[page] = None
            return True
        if page in b2:
            p = max(0, p - (1 if len(b2) >= len(b1) else len(b1) / len(b2)))
            replace(True)
            del b2[page]
            t2[page] = None
            return True
        if len(t1) + len(b1) == c:
            if len(t1) < c:
                b1.popitem(last=False)
                replace(False)
            else:
                t1.popitem(last=False)
        else:
            total = len(t1) + len(t2) + len(b1) + len(b2)
            if total >= c:
                if total == 2 * c:
                    b2.popitem(last=False)
                replace(False)
        t1[page] = None
        return True

    return access


def lirs(capacity: int) -> Access:
    stack, queue = OrderedDict[int, str](), OrderedDict[int, None]()  # bottom and front first
    limit = capacity - max(1, capacity // 100)

    def lirs_now() -> int:
        return sum(kind == "lir" for kind in stack.values())

    def prune() -> None:
        while stack and next(iter(stack.values())) != "lir":
            stack.popitem(last=False)

    def promote(page: int) -> None:
        stack.pop(page, None)
        stack[page] = "lir"
        if lirs_now() > limit:
            prune()
            bottom, _ = stack.popitem(last=False)
            queue[bottom] = None
        prune()

    def access(page: int) -> bool:
        if stack.get(page) == "lir":
            stack.move_to_end(page)
            prune()
            return False
        if page in queue:
            del queue[page]
            if page in stack:
                promote(page)
            else:
                queue[page] = None
                stack[page] = "hir"
            return False
        if lirs_now() + len(queue) == capacity:
            queue.popitem(last=False)
        if page in stack or lirs_now() + len(queue) < limit:
            promote(page)
        else:
            stack[page] = "hir"
            queue[page] = None
        return True

    return access


def wtinylfu(capacity: int) -> Access:
    window, probation, protected = (OrderedDict[int, None]() for _ in range(3))
    window_share = max(1, capacity // 100)
    protected_share = (capacity - window_share) * 8 // 10
    uses: Counter[int] = Counter()
    since = 0

    def count(page: int) -> None:
        nonlocal since
        uses[page] = min(15, uses[page] + 1)
        since += 1
        if since >= 10 * capacity:
            since = 0
            for known in uses:
                uses[known] //= 2

    def to_protected(page: int) -> None:
        protected[page] = None
        if len(protected) > protected_share:
            probation[protected.popitem(last=False)[0]] = None

    def access(page: int) -> bool:
        count(page)
        if page in window:
            window.move_to_end(page)
            return False
        if page in probation or page in protected:
            (probation if page in probation else protected).pop(page)
            to_protected(page)
            return False
        window[page] = None
        if len(window) > window_share:
            candidate, _ = window.popitem(last=False)
            if len(window) + len(probation) + len(protected) < capacity:
                probation[candidate] = None
                return True
            home = probation or protected
            rival = next(iter(home), None)
            if rival is not None and uses[candidate] > uses[rival]:
                del home[rival]
                probation[candidate] = None
        return True

    return access


def lfu(capacity: int, half_life: float = 8.0) -> Access:
    uses: dict[int, list[int]] = {}
    resident: set[int] = set()
    now = -1

    def value(page: int) -> float:
        return math.fsum(2.0 ** (-(now - t) / half_life) for t in uses[page])

    def access(page: int) -> bool:
        nonlocal now
        now += 1
        missed = page not in resident
        if missed and len(resident) == capacity:
            counts = {p: round(value(p), 9) for p in resident}
            resident.remove(min(resident, key=lambda p: (counts[p], p)))
        resident.add(page)
        uses.setdefault(page, []).append(now)
        return missed

    return access


def belady(pages: Sequence[int]) -> Callable[[int], Access]:
    """Clairvoyant: made from the whole sequence."""

    def make(capacity: int) -> Access:
        resident: set[int] = set()
        now = -1

        def next_use(page: int) -> float:
            return next((t for t in range(now + 1, len(pages)) if pages[t] == page), math.inf)

        def access(page: int) -> bool:
            nonlocal now
            now += 1
            missed = page not in resident
            if missed and len(resident) == capacity:
                resident.remove(max(resident, key=lambda p: (next_use(p), -p)))
            resident.add(page)
            return missed

        return access

    return make


CACHES: dict[str, Callable[[int], Access]] = {
    "lru": lru,
    "lfu": lfu,
    "clock": clock,
    "sieve": sieve,
    "s3fifo": s3fifo,
    "arc": arc,
    "lirs": lirs,
    "wtinylfu": wtinylfu,
}


def _expected(name: str, pages: list[int], capacity: int) -> list[bool]:
    make = belady(pages) if name == "belady" else CACHES[name]
    access = make(capacity)
    return [access(page) for page in pages]


@pytest.mark.parametrize("name", [*CACHES, "belady"])
@settings(max_examples=40, deadline=None)
@given(pages=st.lists(st.integers(0, 12), min_size=1, max_size=120), capacity=st.integers(1, 9))
def test_short_sequences(name: str, pages: list[int], capacity: int) -> None:
    assert replay_pages(pages, name, capacity).tolist() == _expected(name, pages, capacity)


@pytest.mark.parametrize("name", [*CACHES, "belady"])
@pytest.mark.parametrize("capacity", [10, 37])
def test_skewed_sequence_with_scans(name: str, capacity: int) -> None:
    rng = np.random.default_rng(5)
    skewed = np.minimum(rng.zipf(1.2, 500), 90)
    pages = np.concatenate([skewed[:250], np.arange(100, 160), skewed[250:], np.arange(100, 160)]).tolist()
    assert replay_pages(pages, name, capacity).tolist() == _expected(name, pages, capacity)


@pytest.mark.parametrize("name", [*CACHES, "belady"])
def test_real_lane(name: str, sample: Trace) -> None:
    sequence = sample.sequences[0]
    pages = sequence.pages[:12, 5][sequence.selected[:12, 5]].tolist()
    assert replay_pages(pages, name, 80).tolist() == _expected(name, pages, 80)
