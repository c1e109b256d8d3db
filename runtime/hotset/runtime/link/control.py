"""The link that a decode loop owns: publish what happened, take what the daemon decided, never wait."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from types import TracebackType

from hotset.protos import discovery
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import (
    Ack,
    Advice,
    Capacity,
    Error,
    Geometry,
    Hello,
    InStep,
    Lookahead,
    Model,
    Plan,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    Step,
)
from hotset.protos.transport import CurveKeys, ServerTransport, ZmqServer
from hotset.runtime.link.mailbox import LinkCounters, Mailbox
from hotset.runtime.link.server import LinkLimits, LinkServer

logger = logging.getLogger(__name__)
Published = SequenceOpen | SequenceClose | Step | Snapshot | Ack | Error
POLL_SECONDS = 0.1


class ControlLink:
    """The runtime's end of the wire, with an I/O thread of its own.

    No method waits for a peer or raises because of one, so a daemon that is absent, slow, dead or hostile
    changes nothing but `counters`. Call everything from the decode loop's thread, at safe points:

        with ControlLink(model="smollm2", geometry=geometry, builtin_policy="ema") as link:
            link.publish(SequenceOpen(sequence=1, prompt_tokens=n, groups=groups, generations=generations))
            for epoch in range(steps):
                if link.snapshot_wanted():
                    link.publish(residency.snapshot(epoch))
                if (plan := link.take_plan()) is not None:
                    applied, rejected = residency.apply(plan)
                    link.publish(Ack(of="plan", number=plan.number, accepted=True,
                                     applied=applied, rejected=rejected))
                decode_one_step()
                if link.attached:  # gathering a step is worth it only if somebody listens
                    link.publish(residency.step_message(epoch))
            link.publish(SequenceClose(sequence=1, tokens=n + steps, reason="length"))

    Publish `SequenceOpen` and `SequenceClose` always: `hotset ps` counts by them. The arrays of a published
    message belong to the link: the loop must not write to them again. Entries of a plan are untrusted: the
    link bounds their number and refuses values that are not finite, but pages and generations are as sent.
    """

    def __init__(
        self,
        *,
        model: str,
        geometry: Geometry,
        builtin_policy: str,
        session: str | None = None,
        endpoint: str | None = None,
        keys: CurveKeys | None = None,
        folder: Path | None = None,
        transport: ServerTransport | None = None,
        limits: LinkLimits | None = None,
        capacity: Capacity | None = None,
        in_step: InStep | None = None,
    ) -> None:
        """Listen and publish the discovery file.

        `endpoint` defaults to a socket in `folder`, and that to `discovery.runtime_dir()`; `tcp://` needs
        `keys`. A ready `transport` (in tests) is used as it is, without a discovery file.
        Raises ProtocolError if the folder is not private or the endpoint cannot be bound.
        """
        self.session = session or uuid.uuid4().hex
        self.counters = LinkCounters()
        self._limits = limits or LinkLimits()
        self._file: Path | None = None
        self._epoch = 0
        self._open: set[int] = set()
        self._hello = Hello(
            session=self.session, pid=os.getpid(), model=model[:256], geometry=geometry, epoch=0,
            builtin_policy=builtin_policy, controller=False, lease_seconds=self._limits.lease_seconds,
            capacity=capacity or Capacity(), in_step=in_step or InStep(),
        )  # fmt: skip
        self._transport = transport or self._listen(endpoint, keys, folder)
        self._mailbox = Mailbox()
        self._outbox: deque[Published] = deque()
        self._server = LinkServer(self._transport, self._mailbox, self.counters, limits=self._limits, hello=self._greet)
        self._server.limit_entries(geometry.slots)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hotset-link", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def endpoint(self) -> str:
        """Where peers connect to."""
        return self._transport.endpoint

    @property
    def geometry(self) -> Geometry:
        """What this session told about its shape."""
        return self._hello.geometry

    @property
    def attached(self) -> bool:
        """Whether anybody listens."""
        return self.counters.peers > 0 and not self._stop.is_set()

    def publish(self, message: Published) -> None:
        """Queue a message for everybody attached (a snapshot: for those who asked). Never blocks or raises."""
        self._remember(message)
        if not self.attached:
            return
        if len(self._outbox) >= self._limits.outbox:
            self.counters.outbox_dropped += 1
            self.counters.outbox_steps_dropped += isinstance(message, Step)
            return
        self._outbox.append(message)
        if not isinstance(message, Ack):
            # Nobody waits for an ack: it leaves with the step, so that the loop hands over the interpreter but once.
            self._transport.wake()

    def lose_step(self) -> None:
        """Count a step message that the loop could not make: as if the outbox had been full."""
        if self.attached:
            self.counters.outbox_dropped += 1
            self.counters.outbox_steps_dropped += 1

    def at_epoch(self, epoch: int) -> None:
        """Tell whoever attaches from now on that the loop stands at `epoch`, also while nobody gets step messages."""
        self._epoch = epoch

    def take_plan(self, patience: float = 0.0) -> Plan | None:
        """The newest plan of the lease holder that was not taken yet, or one that comes in `patience` seconds."""
        return self._mailbox.take_plan(patience)

    def take_models(self) -> list[Model]:
        """Models that the lease holder pushed since the last call, oldest first."""
        return self._mailbox.take_models()

    def take_advice(self) -> Advice | None:
        """The newest advice of the lease holder that was not taken yet."""
        return self._mailbox.take_advice()

    def take_lookahead(self) -> Lookahead | None:
        """The lease holder's newest steering of what the step decides, if it was not taken yet."""
        return self._mailbox.take_lookahead()

    def snapshot_wanted(self) -> bool:
        """Whether a peer waits for a snapshot: publish one at the next safe point."""
        return self._mailbox.snapshot_wanted

    def close(self) -> None:
        """Deliver what is queued, stop the thread and remove the files. A second call does nothing."""
        atexit.unregister(self.close)
        if os.getpid() != self._hello.pid:
            return  # a fork of the decode process ends: the thread and the files are its parent's
        self._stop.set()
        self._transport.wake()
        self._thread.join()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def __enter__(self) -> ControlLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self, endpoint: str | None, keys: CurveKeys | None, folder: Path | None) -> ZmqServer:
        folder = discovery.private_dir(folder) if folder is not None else discovery.runtime_dir()
        self._file = discovery.file_name(folder)
        if endpoint is None:
            endpoint = f"ipc://{self._file.with_suffix('.sock')}"
        server = ZmqServer(endpoint, keys=keys)
        start_time = discovery.process_start_time(os.getpid())
        entry = discovery.RuntimeFile(
            endpoint=server.endpoint, session=self.session, pid=os.getpid(), start_time=start_time or "",
            pid_namespace=discovery.pid_namespace(), started=time.time(), model=self._hello.model,
            geometry=self._hello.geometry,
        )  # fmt: skip
        discovery.write_file(self._file, entry)
        return server

    def _remember(self, message: Published) -> None:
        if isinstance(message, Step):
            self._epoch = message.epoch
        elif isinstance(message, SequenceOpen):
            self._open.add(message.sequence)
        elif isinstance(message, SequenceClose):
            self._open.discard(message.sequence)
        elif isinstance(message, Snapshot):
            self._epoch = message.epoch
            self._mailbox.snapshot_wanted = False

    def _greet(self, leads: bool, holder: str) -> Hello:
        state = {"epoch": self._epoch, "controller": leads, "holder": holder, "sequences": len(self._open)}
        return self._hello.model_copy(update=state)

    def _run(self) -> None:
        skipped = 0
        while not self._stop.is_set():
            try:
                skipped = self._turn(skipped)
            except Exception:
                # Decoding must outlive any fault of its link.
                logger.exception("the control link failed on a message and goes on")
                time.sleep(POLL_SECONDS)
        try:
            self._flush()
        except Exception:
            logger.exception("what was queued at the end of the control link is lost")
        finally:
            self._transport.close()

    def _turn(self, skipped: int) -> int:
        received = self._transport.receive(0 if self._outbox else POLL_SECONDS)
        now = time.monotonic()
        if received is not None:
            self._server.handle(*received, now)
        self._flush()
        overflow = self.counters.outbox_dropped
        if overflow > skipped:
            self._server.skip(overflow - skipped)
        self._server.tick(now)
        return overflow

    def _flush(self) -> None:
        while self._outbox:
            message = self._outbox.popleft()
            try:
                self._server.broadcast(message)
            except ProtocolError as error:
                self.counters.peer_messages_dropped += 1
                logger.warning("a message could not be sent: %s", error)
