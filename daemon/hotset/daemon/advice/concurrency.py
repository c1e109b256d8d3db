"""How many sequences to run: raised while goodput rises, lowered when movement dominates.

    guess     follow the model (guess.py), a few steps at each place, until it points at where we are
    settle    after a change, until about as many run as were asked for, and `settle` steps more
    measure   blocks of steps, until the reading differs from the best by more than noise, or blocks run out
    decide    the search takes the reading and names what to try next
    hold      at the best, until looking around once more costs no more than `look_share` of the time; twice as long
              after each look in vain

Goodput is tokens over the time that the runtime reports. Where no request waits there is nothing to raise, and
where nobody waits for movement nothing to lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hotset.daemon.advice.guess import HEAVY_STALL, Guess
from hotset.daemon.advice.meter import Load, Meter, Reading, Trial
from hotset.daemon.advice.promise import Promise
from hotset.daemon.advice.rules import AdviceRules
from hotset.daemon.advice.search import Search, compare

Model = Callable[[int, int], Promise | None]
"""What a model promises of concurrencies from least to most, None if it does not know yet."""

CRASH = 0.6
CRASH_STEPS = 6
MOST_LOST = 4.0
"""steps at the best that a trial may lose before it is over"""
DEEP_STALL = 0.6
DRIFT = 0.1
PATIENCE = 64
MEMORY = 64
ANY = 1 << 16
MOST_RESTS = 4


class ConcurrencyController:
    """`target` is how many should run; None until it has an opinion. `holding`: nothing better is in sight."""

    def __init__(self, rules: AdviceRules, limit: int = 0, model: Model | None = None, fits: int = 1) -> None:
        """`limit`: sequences that the runtime can run, 0 if unknown."""
        self.target: int | None = None
        self.fits = fits
        """Sequences whose selections fit the hot set, as it is now."""
        self.holding = False
        self.probes = 0
        self._rules = rules
        self._limit = min(limit or ANY, rules.most_concurrency or ANY)
        self._model = model or (lambda least, most: None)
        self._meter = Meter(rules.block, rules.blocks)
        self._glance = Meter(max(1, rules.block // 2), 1)
        self._peek = Meter(max(1, rules.block // 4), 1)
        self._search = Search(rules.tolerance)
        self._guess = Guess()
        self._trial = Trial()
        self._reference: Reading | None = None
        self._settling = False
        self._near = self._still = self._idle = self._crashing = self._before = 0
        self._held, self._rests = 0, 1
        self._rest_us = self._lost_us = 0.0
        self._reachable = ANY
        self._open = 0.0

    @property
    def best(self) -> Reading | None:
        """The best concurrency known, and its goodput."""
        return self._search.best

    def start(self) -> None:
        """Nobody runs yet: have no more begin than fit, since all at once might do nothing but wait for each other."""
        fits = max(self._rules.least_concurrency, self.fits)
        self.target = fits if fits < self._limit else None

    def resume(self, target: int) -> None:
        """Begin where an earlier controller of this runtime stood, and measure there first."""
        self.target = max(self._rules.least_concurrency, min(target, self._limit))
        self._settling = True

    def forget(self) -> None:
        """The runtime does not follow, or is another one: have no opinion until something is measured anew."""
        self.target, self.holding, self._settling = None, False, False
        self._search, self._guess = Search(self._rules.tolerance), Guess()
        self._restart_meters()

    def observe(self, load: Load) -> None:
        """One step; `target` may change."""
        if not load.running or not load.step_us:
            return
        self._follow(load)
        best = self._search.best
        if best is not None and (seen := self._lost(load, best)) is not None:
            # Waiting for a clear reading would cost too much.
            self._crashing = 0
            self._decide(seen)
        elif not self._settling or self._settled(load):
            self._measure(load, best)

    def _measure(self, load: Load, best: Reading | None) -> None:
        full = self._meter.observe(load)
        if not self._guess.over and (seen := self._glanced(load)) is not None:
            self._follow_model(seen)
        if not full or not self._guess.over or (reading := self._meter.reading()) is None:
            return
        reading = self._snap(reading)
        if best is None:
            self._begin(reading)
        elif self._idle:
            self._wait(reading, best)
        elif self.holding:
            self._rest(reading, best)
        else:
            self._judge(reading, best)

    def _glanced(self, load: Load) -> Reading | None:
        """What the last steps say; deep in stall, where each step is long, two are enough."""
        if self._peek.observe(load) and self._peek.last().stall > DEEP_STALL:
            return self._peek.last()
        return self._glance.last() if self._glance.observe(load) else None

    def _follow_model(self, seen: Reading) -> None:
        least, most = self._range(seen)
        promise = self._model(least, most)
        wanted = self._guess.next(seen, promise.best if promise else None, least, most, self.fits)
        if wanted is not None:
            self.probes += 1
            self._go(wanted)

    def _follow(self, load: Load) -> None:
        """Keep count of what could run, of how long nothing has changed, and of what looking around costs."""
        self._open = max(load.running + load.more, 0.5 ** (1 / MEMORY) * self._open)
        self._reachable = max(self._reachable, load.running)
        self._still = self._still + 1 if load.running == self._before else 0
        self._before = load.running
        wanting = self.target is not None and load.running < self.target and not load.more
        self._idle = self._idle + 1 if wanting else 0
        if self.holding:
            self._held += 1
            self._rest_us -= load.step_us
        elif self._search.best is not None:
            self._lost_us += load.step_us - 1e6 * load.running / self._search.best.goodput

    def _restart_meters(self) -> None:
        self._meter.restart()
        self._glance.restart()
        self._peek.restart()

    def _settled(self, load: Load) -> bool:
        """Whether about as many run as were asked for, and have for a while, or no more are to be had."""
        target = self.target or load.running
        self._near += abs(load.running - target) <= max(1, target // 10)
        stuck = self._still >= PATIENCE
        if stuck and load.running < target:
            self._reachable = load.running
        if self._near < (self._rules.settle if self._guess.over else self._rules.settle // 2) and not stuck:
            return False
        self._settling = False
        self._restart_meters()
        return True

    def _lost(self, load: Load, best: Reading) -> Reading | None:
        """What a trial says that has cost enough: goodput has collapsed, or less is lacking, but for long."""
        goodput, stall = 1e6 * load.running / load.step_us, load.stall_us / load.step_us
        low = load.running > best.concurrency and goodput < CRASH * best.goodput
        self._crashing = self._crashing + 1 if low else 0
        if self._crashing >= CRASH_STEPS and self._guess.over:
            return Reading(load.running, goodput, 0.0, 1, stall)
        if self.holding or self.target == best.concurrency or self._near <= self._rules.settle // 2:
            return None
        self._trial.observe(load, best)
        return self._snap(self._trial.reading()) if self._trial.lost > MOST_LOST else None

    def _snap(self, reading: Reading) -> Reading:
        """Sequences come and go; a reading near the target is one of the target."""
        target = self.target
        if target is not None and abs(reading.concurrency - target) <= max(1, target // 10):
            return reading._replace(concurrency=target)
        return reading

    def _begin(self, reading: Reading) -> None:
        """The first reading; where movement dominates, it may be rough."""
        if reading.blocks >= (3 if reading.stall > HEAVY_STALL else max(3, self._rules.blocks // 2)):
            self._decide(reading)

    def _judge(self, reading: Reading, best: Reading) -> None:
        if reading.blocks < self._rules.blocks and not self._is_clear(reading, best):
            return
        if reading.concurrency == best.concurrency:
            self._reachable = best.concurrency
        self._decide(reading)

    def _is_clear(self, reading: Reading, best: Reading) -> bool:
        """Whether to stop measuring: soon if the reading is hardly better, later if it seems good."""
        gain, error = compare(reading, best, self._between(reading, best))
        worth = math.log1p(self._rules.tolerance)
        if gain > worth:
            return reading.blocks >= self._rules.blocks // 2 and gain > 2 * error
        return reading.blocks >= 3 and reading.concurrency != best.concurrency and gain + error < worth

    def _decide(self, reading: Reading) -> None:
        """Take in a reading; try what the search asks for, or rest at the best."""
        before = self._search.best
        if self._search.tell(reading, self._between(reading, before)):
            self._lost_us = 0.0
        best = self._search.best
        assert best is not None
        if before is None or best.concurrency != before.concurrency:
            self._rests = 1
        least, most = self._range(best)
        wanted = self._search.ask(least, most, self._model(least, most), down_first=best.stall > HEAVY_STALL)
        if wanted is None:
            self._hold(best)
        else:
            self.holding = False
            self.probes += 1
            self._go(wanted)

    def _between(self, reading: Reading, best: Reading | None) -> Promise | None:
        """What the model promises of a trial and of the best."""
        if best is None:
            return None
        return self._model(*sorted((reading.concurrency, best.concurrency)))

    def _hold(self, best: Reading) -> None:
        self.holding, self._held, self._reference = True, 0, None
        self._rest_us, self._lost_us = self._lost_us / self._rules.look_share, 0.0
        self._go(best.concurrency)

    def _go(self, target: int) -> None:
        self._settling = target != self.target
        self.target = target
        self._near = self._still = self._idle = self._crashing = 0
        self._trial = Trial()
        self._restart_meters()

    def _range(self, best: Reading) -> tuple[int, int]:
        """What may be tried: as many as there are, as the runtime can run, as we may ask for."""
        least = self._rules.least_concurrency
        most = max(least, min(self._limit, int(self._open), self._reachable))
        if best.stall < self._rules.tolerance:
            least = max(least, min(best.concurrency, most))
        return least, most

    def _wait(self, reading: Reading, best: Reading) -> None:
        """Too few want to run to learn much; but if even they stall heavily, fewer may be better."""
        if not self.holding and self._idle >= PATIENCE:
            self._hold(best)
        elif reading.blocks >= self._rules.blocks and reading.stall > HEAVY_STALL:
            self._search.restart(reading)
            self._decide(reading)

    def _rest(self, reading: Reading, best: Reading) -> None:
        """At the best: keep its reading fresh, notice drift and new demand, and look around when it is time."""
        if self._search.above is None and self._range(best)[1] > best.concurrency + best.concurrency // 10:
            self._decide(reading)
        elif reading.blocks >= self._rules.blocks:
            self._reference = self._reference or reading
            if self._drifted(reading, self._reference):
                self._begin_anew()
            elif self._held >= self._rests * self._rules.hold and self._rest_us <= 0:
                self._reachable = ANY
                self._rests = min(2 * self._rests, MOST_RESTS)
                self._search.look_again()
                self._decide(reading)

    def _begin_anew(self) -> None:
        """The world has changed; even the last reading is half of another."""
        self._rests, self.holding = 1, False
        self._search, self._guess = Search(self._rules.tolerance), Guess()
        self._restart_meters()

    def _drifted(self, reading: Reading, reference: Reading) -> bool:
        """Whether goodput or the share of stall is not what it was as the rest began."""
        changed = abs(reading.goodput / reference.goodput - 1)
        noise = 3 * math.hypot(reading.error, reference.error)
        return changed > max(DRIFT, noise) or abs(reading.stall - reference.stall) > max(DRIFT / 2, noise)
