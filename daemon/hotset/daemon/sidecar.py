"""What a daemon does for one decode process once it is greeted: learn, log, plan, train, swap the model."""

from __future__ import annotations

import time
from collections.abc import Callable

from hotset.daemon.advice.advisor import Advisor
from hotset.daemon.advice.node import Node
from hotset.daemon.ahead import Ahead
from hotset.daemon.backlog import Backlog, Taken
from hotset.daemon.budget import MovementBudget, ScoringBudget
from hotset.daemon.config import DaemonConfig
from hotset.daemon.folders import new_folder
from hotset.daemon.ingest import count_uses
from hotset.daemon.instep.side import InStepSide
from hotset.daemon.learners import ALONE, Learners
from hotset.daemon.planner import Planner, Scorer
from hotset.daemon.recorder import Recorder, trace_meta
from hotset.daemon.resume import MOST_WITHDRAWN, Memory, kind_of
from hotset.daemon.retraining import Retraining
from hotset.daemon.room import Room
from hotset.daemon.rule import Rule
from hotset.daemon.scorers import LearnedScorer
from hotset.daemon.state import SessionState
from hotset.daemon.status import SessionStatus
from hotset.protos.messages import (
    Ack,
    Hello,
    Message,
    Plan,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    SnapshotRequest,
    Step,
)

ASK_SECONDS = 1.0


class Sidecar:
    """Everything behind the connection; `say` sends a message and returns False if it could not."""

    def __init__(
        self,
        hello: Hello,
        config: DaemonConfig,
        scorer: Scorer,
        say: Callable[[Message], bool],
        clock: Callable[[], float] = time.monotonic,
        node: Node | None = None,
        ahead: Callable[[SessionState, Callable[[int, float], None]], Ahead] = Ahead,
        learners: Learners = ALONE,
    ) -> None:
        room = Room(config.state_bytes, config.idle_steps)
        self.state = SessionState(hello.geometry, room, config.table_bytes, learners)
        folder = new_folder(config.log_dir, hello)
        self.status = SessionStatus(
            folder, session=hello.session, pid=hello.pid, model=hello.model, log=str(folder),
            geometry=hello.geometry.model_dump(), started=time.time(),
        )  # fmt: skip
        self.leads = False
        self._kind = kind_of(hello)
        self._config = config
        self._say = say
        self._clock = clock
        self._rule = Rule(hello.geometry, scorer)
        self._advisor = Advisor(hello, config.advice, node, config.link_gbps)
        self._in_step = InStepSide(hello, config.lookahead, self.status)
        self._chosen = self._rule.learned
        self._planner = Planner(config.rules)
        self._budget = MovementBudget(hello.geometry.page_bytes, config.link_gbps)
        self._recorder = Recorder(
            folder / "trace", trace_meta(hello),
            rows_per_part=config.rows_per_part, flush_seconds=config.flush_seconds,
            lookahead=tuple(sorted(set(hello.in_step.distances))),
        )  # fmt: skip
        self._scoring = ScoringBudget(config.rules.rows)
        self._ahead = ahead(self.state, self._scoring.observe)
        self._ahead.begin()  # a session has the same threads from its start to its end
        self._backlog = Backlog(self.state, self._learned, clock)
        self._new: list[Step] = []
        self._fresh = False
        """Whether a plan waits for what is being learned."""
        self._answered: float | None = None
        self._retraining = Retraining(self._recorder, self.status)
        self._asked = -ASK_SECONDS

    def configure(self, config: DaemonConfig) -> None:
        """Take what may change at run time from these options."""
        if config is not self._config:
            self._config = config
            self._planner.rules, self._scoring.most = config.rules, config.rules.rows
            self._budget.gbps = config.link_gbps

    def resume(self, memory: Memory, scorer: LearnedScorer | None) -> None:
        """Go on where an earlier daemon stopped; before anything is learned."""
        config = self._config
        if scorer is not None:
            self._rule.install(scorer, sequences=1)
            assert memory.in_service is not None
            self._rule.recall(memory.in_service)
        self._in_step.push.withdrawn = dict(memory.withdrawn)
        self._advisor.resume(memory.advised_concurrency, memory.advised_slots)
        gauges = self.status.gauges
        gauges.advised_concurrency, gauges.advised_slots = memory.advised_concurrency, memory.advised_slots
        self._retraining.resume(memory.trainings, memory.since_training, config)
        version = scorer.version if scorer is not None else ""
        self.status.phase("resumed", version=version, trainings=memory.trainings, verdict=self._rule.verdict)

    @property
    def memory(self) -> Memory:
        """What a later daemon should know of this session. May be read by another thread."""
        gauges, retraining = self.status.gauges, self._retraining
        return Memory(
            session=self.status.about["session"], kind=self._kind, in_service=self._rule.in_service,
            trainings=retraining.ended, since_training=retraining.since,
            withdrawn=dict(list(self._in_step.push.withdrawn.items())[-MOST_WITHDRAWN:]),
            advised_concurrency=gauges.advised_concurrency, advised_slots=gauges.advised_slots,
        )  # fmt: skip

    def greeted(self, hello: Hello) -> None:
        """The runtime says whether we hold the lease; may come again."""
        self.status.epoch = max(self.status.epoch, hello.epoch)
        if hello.controller and not self.leads:
            self.status.role, self.status.reason = "controller", ""
            shape = hello.geometry
            self.status.phase("attach", model=hello.model, lanes=shape.lanes, slots=shape.slots)
            self._advisor.unsaid()
            self._in_step.renewed()
            self._tell()
        elif not hello.controller:
            self.status.role = "standby"
        self.leads = hello.controller
        if self.leads:
            self._advise()
        if not self.state.synced:
            self.ask_snapshot()

    def refused(self, reason: str) -> None:
        """We do not hold the lease (any more)."""
        if self.status.reason != reason:
            self.status.phase("lease_lost" if self.leads else "standby", reason=reason)
        self.status.role, self.status.reason = "standby", reason
        self.leads = False

    def lost(self, messages: int) -> None:
        """So many messages are missing: what we believe of residency may be wrong until a snapshot comes."""
        self.status.counters.gaps += 1
        self.status.counters.messages_lost += messages
        self.state.synced = False
        self.ask_snapshot()

    def ask_snapshot(self) -> None:
        """Ask for the whole state, once a second at most."""
        now = self._clock()
        if now - self._asked >= ASK_SECONDS:
            self._asked = now
            self._say(SnapshotRequest())

    def learn(self, message: Message) -> None:
        """Take in what the runtime reports; what a step teaches waits for `answer` and `learn_some`.

        Raises ProtocolError if it does not fit its geometry.
        """
        counters = self.status.counters
        if self.state.refused != counters.sequences_refused:
            self._note_refused()
        if isinstance(message, Step):
            self._backlog.add(Taken(message, self.state.take(message)))
            self._new.append(message)
            self._budget.observe(message.stats)
        elif isinstance(message, SequenceOpen):
            self.state.open(message)
        elif isinstance(message, SequenceClose):
            self._advisor.closing(message, self.state)
            self.state.close(message)
            self._rule.forget(message.sequence)
        elif isinstance(message, Snapshot):
            gone = self.state.sequences.keys() - set(message.sequences)
            self.state.snapshot(message)
            self._advisor.forget(gone)
            for number in gone:
                self._rule.forget(number)
            counters.snapshots += 1
        elif isinstance(message, Ack):
            self._advisor.acknowledged(message)
            self._in_step.acknowledged(message)
            counters.plans_refused += message.of == "plan" and not message.accepted
            counters.advice_refused += message.of == "advice" and not message.accepted

    def _note_refused(self) -> None:
        counters = self.status.counters
        if not counters.sequences_refused:
            self.status.phase("tables_full", sequences=len(self.state.sequences), table_bytes=self._config.table_bytes)
        counters.sequences_refused = self.state.refused

    def answer(self, arrived: float) -> None:
        """Plan from the newest step that was taken, which came at `arrived`.

        Where learning and scoring take little of a step, the plan is of this very step. Else it is made at once of
        values that were made ahead, and what waits is left to `learn_some`.
        """
        if not self._new:
            if not self._backlog.load.knows_pace:
                # What comes while a first snapshot is taken over has come since then.
                self._answered = arrived
            return
        newest, count = self._new[-1], len(self._new)
        self._new.clear()
        self.status.counters.steps_skipped += count - 1
        plans = self._plans(newest)
        self._fresh = self._scoring.fits(self._planner.turns.round_pages, self._backlog.expected, newest.stats)
        if self._fresh:
            self._ahead.pause()
            self._backlog.learn_all()
            if plans:
                self._plan_fresh(newest, arrived)
        elif plans and self._ahead.running:
            parts, room = self._ahead.take(), self._budget.pages(newest.stats)
            plan = self._planner.make(self.state, self._rule.scorer, parts, room, least=self._least)
            self._send(plan, arrived)
        if self.leads and self.state.synced:
            self._advise()
            self._push()
        besides = 0.0 if self._fresh else self._clock() - arrived
        self._backlog.load.arrived(count, None if self._answered is None else arrived - self._answered, besides)
        self._answered = arrived

    def learn_some(self) -> bool:
        """Learn a little of what waits; False if nothing does."""
        return self._backlog.learn_some()

    def _plans(self, newest: Step) -> bool:
        if not self.leads or not self.state.synced:
            return False
        self._adopt_model()
        if self._rule.scorer.source != self.status.source:
            self.status.counters.guard_takeovers += self.status.source == "learned"
            self._tell(verdict=self._rule.verdict)
        return self._due(newest.epoch)

    def _due(self, epoch: int) -> bool:
        every = self._config.plan_every
        return every > 0 and epoch % every == 0

    def _learned(self, step: Taken, seen: bool) -> None:
        """The features have seen a step, or had to leave it out: let all others see it, and score anew."""
        message = step.message
        if seen:
            self._rule.observe([part for part in step.parts if self.state.holds(part.sequence)])
            self._advisor.observe(message, self.state)
        # Whatever is left out of the features: figures by layer cost next to nothing, and tell how a push stands.
        self._in_step.observe(message, self._budget.bytes_per_us)
        self._scoring.told(message.stats)
        self._count(message)
        # One log a session: whoever stands by leaves it to the controller.
        if self.leads and self._config.record:
            self._recorder.note(message, self.status.source if self._config.plan_every else "")
            for part in step.parts:
                self._recorder.append(part, message.epoch)
        if not self.state.synced:
            self.ask_snapshot()
        elif seen and self.leads and not self._fresh and self._due(message.epoch + 1):
            self._ahead.start(self._rule.scorer, self._planner.rules)

    def _count(self, message: Step) -> None:
        status, stats, counters = self.status, message.stats, self.status.counters
        uses = count_uses(message.flags)
        counters.steps_received += 1
        counters.accesses += uses.selected
        counters.hits += uses.hits
        counters.prefetched_hits += uses.prefetched
        counters.demand_pages += stats.demand_pages
        counters.moved_bytes += stats.moved_bytes
        counters.step_seconds += stats.step_us / 1e6
        counters.stall_seconds += stats.stall_us / 1e6
        counters.plans_applied = stats.plans_applied
        counters.entries_applied = stats.entries_applied
        counters.entries_rejected = dict(stats.entries_rejected)
        status.epoch, status.sequences, status.reserve = message.epoch, len(message.sequences), stats.reserve
        gauges = status.gauges
        gauges.waiting, gauges.paused = stats.waiting, stats.paused
        gauges.hot_slots = stats.hot_slots or self.state.geometry.slots
        gauges.observed_share = self._backlog.load.share
        counters.lanes_shed, counters.compactions = self.state.lanes_shed, self.state.room.compactions

    @property
    def _least(self) -> int:
        """Pages that make a prefetch worth its while."""
        return self._budget.least(self._planner.rules.flight_us)

    def _plan_fresh(self, step: Step, arrived: float) -> None:
        start, rows = self._clock(), self._scoring.rows(step.stats)
        room = self._budget.pages(step.stats)
        plan = self._planner.plan(self.state, self._rule.scorer, room, rows, least=self._least)
        self._scoring.observe(self._planner.scored, self._clock() - start)
        self._send(plan, arrived)

    def _send(self, plan: Plan, arrived: float) -> None:
        counters = self.status.counters
        if not self._say(plan):
            counters.plans_dropped += 1
            return
        counters.plans_sent += 1
        counters.entries_sent += len(plan.pages) + len(plan.prefetch)
        counters.prefetch_sent += len(plan.prefetch)
        self.status.planned(self._clock() - arrived)

    def _advise(self) -> None:
        advice = self._advisor.advise()
        if advice is not None and not self._say(advice):
            self._advisor.unsaid()

    def _push(self) -> None:
        learned = self._rule.learned
        for message in self._in_step.due(learned, self.status.epoch, meant=learned is self._chosen):
            self._in_step.sent(message, well=self._say(message))

    def tend(self) -> None:
        """What is due whether or not a step came: training and the status file."""
        self.status.expects(self._advisor.report)
        self.status.counters.steps_logged = self._recorder.logged
        self.status.counters.log_dropped = self._recorder.dropped
        self._retraining.tend(self._config, leads=self.leads)
        if self.status.due:
            self._measure()
            self.status.write()

    def _measure(self) -> None:
        """What costs too much to look at on every turn."""
        gauges, rate = self.status.gauges, self._budget.bytes_per_us
        gauges.state_bytes = self.state.room.used(self.state.sequences)
        gauges.training_running = self._retraining.running
        gauges.log_failed = bool(self._recorder.failed)
        gauges.link_rate = None if rate is None else rate * 1e6
        gauges.scored_share = self._planner.scored_share
        self.status.in_step = self._in_step.report()
        self.status.counters.log_bytes = self._recorder.written
        if self._rule.report is not None and self._rule.learned is not None:
            report = self._rule.report
            gauges.guard_ok, gauges.retrain_wanted = report.learned_ok, report.retrain_wanted
            gauges.ghost_learned, gauges.ghost_heuristic = report.learned_misses, report.heuristic_misses
            gauges.drift = max(report.drift.values(), default=None)
            gauges.model_made = self._rule.learned.made

    def _adopt_model(self) -> None:
        """Between two plans, put a finished training's model in place."""
        scorer = self._retraining.finished(swap=self._config.swap)
        if scorer is not None:
            self._rule.install(scorer, sequences=len(self.state.sequences))
            self.status.counters.swaps += 1
            self.status.phase("swap", version=scorer.version)
            self._tell()

    def _tell(self, **details: str) -> None:
        """Note who plans from here on."""
        scorer = self._rule.scorer
        self._scoring.reset()
        self.status.source, self.status.model_version = scorer.source, scorer.version
        self.status.phase(scorer.source, **details)

    def close(self, reason: str) -> None:
        """Stop the training, finish the log, and say why."""
        self._retraining.stop()
        self._ahead.close()
        # The message that ended the session came right after these.
        self._backlog.learn_all()
        self._recorder.close()
        self._advisor.close()
        self.status.counters.steps_logged = self._recorder.logged
        self.status.role, self.status.reason = "ended", reason
        self.status.phase("end", reason=reason)
