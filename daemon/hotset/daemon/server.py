"""The daemon: finds decode processes, serves each on a thread of its own, and stops cleanly."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hotset.daemon import logs
from hotset.daemon.advice.node import Node
from hotset.daemon.bell import Bell
from hotset.daemon.config import DaemonConfig, with_live
from hotset.daemon.connection import Connection
from hotset.daemon.events import say
from hotset.daemon.http import Endpoint
from hotset.daemon.learners import Learners, default_threads
from hotset.daemon.metrics import ProcessStatus
from hotset.daemon.notify import Notifier
from hotset.daemon.planner import Scorer
from hotset.daemon.resume import StateFile
from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.daemon.session import Session
from hotset.daemon.status import SessionStatus
from hotset.daemon.warmup import warm_up
from hotset.protos import discovery
from hotset.protos.errors import HotsetError
from hotset.protos.transport import ZmqClient
from hotset.protos.transport.keys import client_keys

SWITCH_SECONDS = 2e-4
"""for which a thread may keep the interpreter from another: 5 ms, as is usual, is much of a step"""
STUCK_SECONDS = 60.0
"""A loop that did not turn for so long hangs; the longest honest turn is a compilation."""
UNANSWERED_SECONDS = 5.0
"""after which a runtime that never greeted us is told of"""


@dataclass
class _Served:
    session: Session
    thread: threading.Thread
    endpoint: str
    asked: float | None
    """When, as long as it has not answered and we have not told of it."""


class Daemon:
    """Watches the runtime folder (or one endpoint). `serve` returns when `stop` was called or its work is done."""

    def __init__(self, config: DaemonConfig, read: Callable[[], DaemonConfig] | None = None) -> None:
        """`read` gives the configuration anew for a reload, or raises HotsetError.

        Raises HotsetError if the model or keys cannot be loaded, the pid is not there or the folder not private.
        """
        self.config = config
        self.stopping = False
        self.process = ProcessStatus(started=time.time())
        self._started = self._turned = time.monotonic()
        self._ready = False
        self._read = read
        self._reload_asked = False
        self._bell = Bell()
        self._notifier = Notifier()
        self._stop = threading.Event()
        self._keys = None if config.keys is None else client_keys(config.keys)
        self._served: dict[str, _Served] = {}
        self._finished: set[str] = set()
        self._over = False
        """Whether any session ever was."""
        self._listed: set[str] = set()
        self._node = Node(config.advice.device_bytes)
        self._learners = Learners(config.learn_threads or default_threads())
        self._folder = discovery.runtime_dir()
        self._scorer: Scorer = LearnedScorer.load(config.model) if config.model is not None else HeuristicScorer()
        known = self._scorer.model.card.sha256 if isinstance(self._scorer, LearnedScorer) else ""
        self._state = StateFile(config.log_dir, known) if config.resume else None
        if config.pid is not None and discovery.process_start_time(config.pid) is None:
            raise HotsetError(f"no process {config.pid}; `hotset ps` lists those that decode")

    @property
    def statuses(self) -> list[SessionStatus]:
        """Of the sessions that are served now and were greeted."""
        served = list(self._served.values())
        return [s.session.sidecar.status for s in served if s.session.sidecar is not None]

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def unhealthy(self) -> list[str]:
        """Loops that hang, each with its silence. While it compiles or stops a daemon is healthy."""
        if not self._ready:
            return []
        now = time.monotonic()
        turns = {"the daemon": self._turned} | {
            f"session {n[:8]}": s.session.turned for n, s in list(self._served.items())
        }
        return [f"{who} hangs for {now - at:.0f} s" for who, at in turns.items() if now - at > STUCK_SECONDS]

    def unready(self) -> list[str]:
        """Empty while it watches, with everything compiled."""
        if self.stopping:
            return ["stopping"]
        return self.unhealthy() if self._ready else ["compiling the step path"]

    def stop(self) -> None:
        """Make `serve` finish its logs and return. Safe in a signal handler."""
        self.stopping = True
        self._bell.ring()

    def ask_reload(self) -> None:
        """Make `serve` read the configuration again. Safe in a signal handler."""
        self._reload_asked = True
        self._bell.ring()

    def serve(self) -> None:
        """Serve every decode process that appears. Logs of sessions are whole when this returns."""
        port = self.config.metrics_port
        endpoint = None if port is None else Endpoint(self, self.config.metrics_host, port)
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            warm_up(self._scorer)
            self._turned, self._ready = time.monotonic(), True
            say(logging.INFO, "serving", folder=str(self._folder), logs=str(self.config.log_dir.absolute()))
            self._notifier.ready()
            while not self.stopping and not self._done():
                self._turn()
                self._bell.wait(self.config.poll_seconds)
        finally:
            self._finish()
            if endpoint is not None:
                endpoint.close()

    def _turn(self) -> None:
        if self._reload_asked:
            self._reload_asked = False
            self._reload()
        self._keep()
        self._watch()
        self._turned = time.monotonic()
        if not self.unhealthy():
            self._notifier.alive()

    def _finish(self) -> None:
        self.stopping, self._ready = True, False
        say(logging.INFO, "stopping", sessions=len(self._served))
        self._notifier.stopping()
        self._stop.set()
        for served in self._served.values():
            served.thread.join()
        self._learners.close()
        self._keep()
        self._bell.close()

    def _keep(self) -> None:
        """For whoever starts after us."""
        if self._state is not None:
            sidecars = [served.session.sidecar for served in self._served.values()]
            self._state.keep([sidecar.memory for sidecar in sidecars if sidecar is not None])

    def _reload(self) -> None:
        if self._read is None:
            return
        self._notifier.reloading()
        try:
            self.config, changed, kept = with_live(self.config, self._read())
        except Exception as error:  # noqa: BLE001 - whatever fails while reading must not end what runs well
            self.process.reloads["refused"] += 1
            mistakes = str(error).splitlines() if isinstance(error, HotsetError) else [repr(error)]
            say(logging.ERROR, "config_refused", mistakes=mistakes)
            # `systemctl reload` has sent a signal, and calls that done; its `status` tells.
            self._notifier.ready("serving; a changed configuration was refused, see the log")
        else:
            self.process.reloads["taken"] += 1
            logs.set_level(self.config.log_level)
            for served in self._served.values():
                served.session.configure(self.config)
            if kept:
                say(logging.WARNING, "config_kept", keys=kept)
            say(logging.INFO, "config_reloaded", changed=changed)
            self._notifier.ready()

    def _watch(self) -> None:
        for name in [name for name, served in self._served.items() if not served.thread.is_alive()]:
            say(logging.INFO, "session_ended", session=name[:8], reason=self._served[name].session.ended)
            # Not served again: it ended, refused us, or somebody asked us to let go.
            self._finished.add(name)
            self._over = True
            self.process.sessions_ended += 1
            del self._served[name]
        for served in self._served.values():
            self._notice_silence(served)
        if self.config.endpoint is not None:
            self._serve_once(self.config.endpoint, self.config.endpoint, self._answers)
            return
        found = discovery.find_runtimes(self._folder)
        self._listed = {entry.session for entry in found}
        # Who is gone does not come back under this name, and need not be remembered.
        self._finished &= self._listed
        for entry in found:
            if self.config.pid in (None, entry.pid):
                self._serve_once(entry.session, entry.endpoint, partial(self._runs, entry))

    def _notice_silence(self, served: _Served) -> None:
        if served.session.sidecar is not None:
            served.asked = None
        elif served.asked is not None and time.monotonic() - served.asked > UNANSWERED_SECONDS:
            served.asked = None
            say(logging.WARNING, "unanswered", endpoint=served.endpoint)

    def _serve_once(self, name: str, endpoint: str, alive: Callable[[float], bool]) -> None:
        if name in self._served or name in self._finished:
            return
        try:
            client = ZmqClient(endpoint, keys=self._keys)
        except HotsetError as error:
            say(logging.WARNING, "attach_failed", endpoint=endpoint, reason=str(error))
            self._finished.add(name)
            self._over = True
            return
        connection = Connection(client, self.config.name)
        session = Session(
            connection, self.config, alive, self._scorer,
            state=self._state, node=self._node, learners=self._learners,
        )  # fmt: skip
        thread = threading.Thread(target=session.run, args=(self._stop,), name=f"hotset-{name[:8]}", daemon=True)
        self._served[name] = _Served(session, thread, endpoint, time.monotonic())
        thread.start()

    def _answers(self, silence: float) -> bool:
        return silence < self.config.answer_seconds

    def _runs(self, entry: discovery.RuntimeFile, silence: float) -> bool:
        # The kernel knows better than silence: a stopped or idle process is still there. But one may outlive its
        # runtime, which then has taken its file away.
        return entry.alive and (entry.session in self._listed or self._answers(silence))

    def _done(self) -> bool:
        if self._served:
            return False
        if self.config.pid is not None and discovery.process_start_time(self.config.pid) is None:
            return True
        alone = self.config.once or self.config.endpoint is not None or self.config.pid is not None
        return alone and self._over
