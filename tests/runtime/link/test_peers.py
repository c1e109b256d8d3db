"""The lease and the rate limits, with a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotset.protos.rate import Bucket
from hotset.runtime.link.peers import MAX_CONNECTIONS, Peer, Peers


def make_peers(lease_seconds: float = 3.0) -> Peers:
    return Peers(lease_seconds=lease_seconds, messages_per_second=10, bytes_per_second=1000)


def attached(peers: Peers, peer_id: bytes) -> Peer:
    peer = peers.connection(peer_id)
    peer.attached = True
    return peer


def test_one_peer_holds_the_lease() -> None:
    peers = make_peers()
    one, two = attached(peers, b"1"), attached(peers, b"2")
    assert peers.lease(one, now=0)
    assert not peers.lease(two, now=1)
    assert peers.lease(one, now=1)
    assert peers.controller is one


def test_silence_ends_the_lease_and_a_word_renews_it() -> None:
    peers = make_peers(lease_seconds=3)
    one, two = attached(peers, b"1"), attached(peers, b"2")
    peers.lease(one, now=0)
    one.heard_at = 2
    assert peers.expire(now=5) is None
    assert peers.expire(now=5.1) is one
    assert peers.lease(two, now=5.2)


@pytest.mark.parametrize("end", ["forget", "ban", "release"])
def test_the_lease_ends_with_its_holder(end: str) -> None:
    peers = make_peers()
    one, two = attached(peers, b"1"), attached(peers, b"2")
    peers.lease(one, now=0)
    getattr(peers, end)(two)
    assert peers.controller is one
    getattr(peers, end)(one)
    assert peers.controller is None


def test_who_was_told_to_let_go_does_not_get_it_again() -> None:
    peers = make_peers()
    one = attached(peers, b"1")
    one.revoked = True
    assert not peers.lease(one, now=0)


def test_strangers_are_forgotten_but_not_those_attached() -> None:
    peers = make_peers()
    friend = attached(peers, b"friend")
    for i in range(3 * MAX_CONNECTIONS):
        peers.connection(i.to_bytes(4, "big"))
    assert peers.attached() == [friend]
    peers.check_integrity()


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    bucket = Bucket(rate=10, burst=20)
    assert sum(bucket.take(1, now=0.0) for _ in range(50)) == 20
    assert sum(bucket.take(1, now=1.0) for _ in range(50)) == 10
    assert sum(bucket.take(1, now=100.0) for _ in range(50)) == 20


ACTIONS = st.tuples(
    st.sampled_from(("attach", "lease", "speak", "wait", "ban", "forget", "revoke", "stranger")), st.integers(0, 3)
)


@given(st.lists(ACTIONS, max_size=60))
def test_any_history_leaves_at_most_one_welcome_controller(history: list[tuple[str, int]]) -> None:
    peers, now = make_peers(), 0.0
    for action, who in history:
        peer = peers.connection(bytes([who]))
        if action == "attach" and not peer.banned:
            peer.attached = True
        elif action == "lease" and peer.attached and not peer.banned:
            peers.lease(peer, now)
        elif action == "speak":
            peer.heard_at = now
        elif action == "wait":
            now += who
            peers.expire(now)
        elif action == "ban":
            peers.ban(peer)
        elif action == "forget":
            peers.forget(peer)
        elif action == "revoke":
            peers.release(peer)
            peer.revoked = True
        else:
            peers.connection(f"{now}{who}".encode())
        peers.check_integrity()
