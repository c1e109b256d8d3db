"""Files, sockets and threads of a link, and who the kernel says is at the other end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from link_bench import (
    GEOMETRY,
    Bench,
    Peer,
    make_step,
)

from hotset.protos import discovery
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import (
    Attach,
    Error,
    SequenceClose,
    Step,
)
from hotset.protos.transport import Sender, ZmqClient
from hotset.runtime.link import ControlLink, LinkLimits
from hotset.runtime.link.server import impostor


def test_close_ends_the_thread_and_may_be_repeated(bench: Bench) -> None:
    bench.controller()
    bench.link.close()
    bench.link.close()
    assert not any(thread.name == "hotset-link" for thread in threading.enumerate())
    bench.link.publish(make_step(1))
    assert bench.link.take_plan() is None


def test_the_link_is_found_by_its_file_and_leaves_none(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ControlLink(model="m", geometry=GEOMETRY, builtin_policy="ema", folder=folder) as link:
        (entry,) = discovery.find_runtimes(folder)
        assert (entry.session, entry.endpoint, entry.geometry) == (link.session, link.endpoint, GEOMETRY)
        client = ZmqClient(entry.endpoint)
        assert Peer(client).attach().session == entry.session
        client.close()
    assert list(folder.iterdir()) == []


def test_two_links_in_one_process_do_not_collide(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = [ControlLink(model=m, geometry=GEOMETRY, builtin_policy="ema", folder=folder) for m in ("a", "b")]
    assert [entry.model for entry in discovery.find_runtimes(folder)] == ["a", "b"]
    for link in made:
        link.close()
    assert list(folder.iterdir()) == []


def test_tcp_without_keys_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ProtocolError, match="needs CURVE keys"):
        ControlLink(model="m", geometry=GEOMETRY, builtin_policy="ema", folder=folder, endpoint="tcp://127.0.0.1:*")
    assert list(folder.iterdir()) == []


def test_steps_survive_the_socket_unchanged(tmp_path: Path) -> None:
    patient = LinkLimits(lease_seconds=120)
    with ControlLink(
        model="m", geometry=GEOMETRY, builtin_policy="ema", folder=tmp_path / "run", limits=patient
    ) as link:
        client = ZmqClient(link.endpoint)
        peer = Peer(client)
        peer.attach()
        rng = np.random.default_rng(0)
        sent = make_step(3, width=20_000).model_copy(
            update={"candidates": rng.integers(0, 99, (2, 20_000), dtype="<i4")}
        )
        link.publish(sent)
        got = peer.expect(Step)
        np.testing.assert_array_equal(got.candidates, sent.candidates)
        link.publish(SequenceClose(sequence=1, tokens=9, reason="length"))
        peer.expect(SequenceClose)
        client.close()


def test_the_link_needs_no_torch() -> None:
    code = "import sys, hotset.runtime.link; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_peer_may_not_claim_to_be_another_process(tmp_path: Path) -> None:
    with ControlLink(model="m", geometry=GEOMETRY, builtin_policy="ema", folder=tmp_path / "run") as link:
        honest, liar = Peer(ZmqClient(link.endpoint)), Peer(ZmqClient(link.endpoint))
        assert honest.attach("observer").session == link.session
        liar.pid = os.getppid()
        liar.send(Attach(peer="liar", pid=liar.pid))
        told = liar.expect(Error)
        assert told.code == "wrong_sender"
        assert f"process {os.getppid()}, the connection is that of process {os.getpid()}" in told.reason
        link.publish(make_step(1))
        honest.expect(Step)
        assert liar.receive(0.05) is None
        for peer in (honest, liar):
            peer.client.close()


def test_a_fork_that_ends_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from link_bench import GEOMETRY
        from hotset.protos import discovery
        from hotset.runtime.link import ControlLink
        link = ControlLink(model="m", geometry=GEOMETRY, builtin_policy="ema", folder=Path(sys.argv[1]))
        if (child := os.fork()) == 0:
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert len(discovery.find_runtimes(Path(sys.argv[1]))) == 1
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == 0
    # The parent never closed its link, and is gone with its files all the same.
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("sender", "welcome"),
    [
        (None, True),  # no kernel vouches: memory, tcp
        (Sender(os.getuid(), 7), True),
        (Sender(os.getuid(), 0), True),  # of another pid namespace, such as a sidecar container
        (Sender(0, 7), True),  # root may do anything anyway
        (Sender(os.getuid(), 8), False),
        (Sender(os.getuid() + 1, 7), False),
        (Sender(os.getuid() + 1, 0), False),
    ],
)
def test_who_may_claim_to_be_process_7(sender: Sender | None, welcome: bool) -> None:
    assert (impostor(7, sender) == "") == welcome
