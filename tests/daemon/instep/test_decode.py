"""A real decode that looks ahead, and a daemon that learns from it: from ranks in the log to a model in force."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint

from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection
from hotset.daemon.scorers import HeuristicScorer
from hotset.daemon.session import Session
from hotset.predictor.trace import read_trace
from hotset.protos.messages import LayerFigure
from hotset.protos.transport import MemoryServer
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.link import ControlLink
from hotset.runtime.steering import LinkSteering

pytestmark = pytest.mark.e2e
WAIT, STEPS, MORE, MOST = 120.0, 150, 60, 800
"""seconds to wait at most; steps before the training, with its model, and at most while it is put in force"""


def make_decoder(folder: Path) -> Decoder:
    options = {"selected": 8, "hbm_fraction": 0.2, "lookahead": 1, "link_gbps": 0.05, "max_tokens": 3000}
    return Decoder.from_pretrained(folder, RuntimeConfig.checked(**options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(made)
    return made


@pytest.fixture
def decoder(folder: Path) -> Iterator[Decoder]:
    made = make_decoder(folder)
    yield made
    made.close()


def prompt() -> list[int]:
    return random.Random(1).choices(range(64), k=2000)


def decode(decoder: Decoder, steps: int) -> None:
    for _ in range(steps):
        decoder.step()
    decoder.kv.check_integrity()


class Serve:
    """Lets sessions run, each on a thread of its own, until `end`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __call__(self, session: Session) -> None:
        self._threads.append(threading.Thread(target=session.run, args=(self._stop,)))
        self._threads[-1].start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def serve() -> Iterator[Serve]:
    made = Serve()
    yield made
    made.end()


def test_from_the_ranks_of_a_decode_to_its_model_in_force(
    decoder: Decoder, folder: Path, serve: Serve, tmp_path: Path
) -> None:
    assert decoder.ahead is not None
    server = MemoryServer()
    link = ControlLink(
        model="tiny", geometry=decoder.kv.geometry, builtin_policy="margin-ema", transport=server,
        in_step=decoder.ahead.in_step,
    )  # fmt: skip
    decoder.steering = LinkSteering(link, lifetime=16)
    arguments = ("--trees", "8", "--rows", "60000", "--tracking-uri", str(tmp_path / "ml.db"))
    config = DaemonConfig(
        log_dir=tmp_path / "logs", train=True, train_after=STEPS - 20, train_arguments=arguments, swap="always",
        train_niceness=0,
    )  # fmt: skip
    session = Session(Connection(server.connect(), "test"), config, lambda _: True, HeuristicScorer())
    serve(session)
    until(lambda: session.sidecar is not None and session.sidecar.leads)
    assert session.sidecar is not None
    sidecar, status = session.sidecar, session.sidecar.status
    generation = decoder.open(prompt(), max_new_tokens=MOST)
    decode(decoder, STEPS)
    until(lambda: status.gauges.training_running)
    training = status.path.parent / "training-1"
    until(lambda: (training / "result.json").exists() or not sidecar._retraining.running)
    # The model is loaded on a thread of its own; it is adopted between two plans.
    phases: list[str] = []
    while "push_accepted" not in phases and len(generation.tokens) < MOST - 2 * MORE:
        decode(decoder, 1)
        time.sleep(0.25)
        phases = [phase["phase"] for phase in status.phases]
    assert phases.index("training_finished") < phases.index("push") < phases.index("push_accepted")
    assert decoder.ahead.heads.version == session.sidecar._in_step.push.version != ""
    before = decoder.kv.manager.moved.prefetched_hits
    decode(decoder, MORE)
    assert decoder.kv.manager.moved.prefetched_hits > before
    until(lambda: status.gauges.device_model and status.epoch >= decoder.epoch - 1)
    tally = session.sidecar._in_step.tally
    assert tally.total[LayerFigure.STEP_USED].sum() > 0
    assert tally.total[LayerFigure.DEMAND_PAGES].sum() == status.counters.demand_pages
    serve.end()
    (logged,) = read_trace(status.path.parent / "trace").sequences
    assert (logged.lookahead[1][:, 2:] >= 0).any(axis=(1, 2)).all()
    # What was decided inside the steps changed no token.
    alone = make_decoder(folder)
    same = alone.open(prompt(), max_new_tokens=len(generation.tokens))
    decode(alone, len(generation.tokens) - 1)
    assert same.tokens == generation.tokens[: len(same.tokens)]
    alone.close()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
