"""When a session trains anew, and what came of it: the log is on disk first, then a child reads it."""

from __future__ import annotations

import threading

from hotset.daemon.config import DaemonConfig
from hotset.daemon.recorder import Recorder
from hotset.daemon.scorers import LearnedScorer
from hotset.daemon.status import SessionStatus
from hotset.daemon.training import Training


class Retraining:
    """Of one session; never waits. `tend` begins what is due, `finished` hands over what a training left."""

    def __init__(self, recorder: Recorder, status: SessionStatus) -> None:
        self._recorder, self._status = recorder, status
        self._flushed: threading.Event | None = None
        self._training: Training | None = None
        self._trained_at = 0

    @property
    def running(self) -> bool:
        """Whether a child trains."""
        return self._training is not None

    @property
    def ended(self) -> int:
        """Trainings that are over."""
        return self._status.counters.trainings - self.running

    @property
    def since(self) -> int:
        """Sequence steps logged since the last training began."""
        return max(0, self._recorder.logged - self._trained_at)

    def resume(self, trainings: int, since: int, config: DaemonConfig) -> None:
        """Count on where an earlier daemon stopped, `since` sequence steps after the last of so many trainings."""
        self._status.counters.trainings = trainings
        # The log begins anew: what a training needs at least has to be in it.
        self._trained_at = -min(since, max(0, config.train_every - config.train_after))

    def tend(self, config: DaemonConfig, *, leads: bool) -> None:
        """Begin what is due; only who `leads` has a log."""
        if self._flushed is not None and self._flushed.is_set():
            self._start(config)
        elif leads and self._due(config):
            # The training reads files: have all steps in them first, without waiting here.
            self._flushed = self._recorder.flush()

    def _due(self, config: DaemonConfig) -> bool:
        first = self._status.counters.trainings == 0
        busy = self.running or self._flushed is not None
        wait = config.train_after if first else config.train_every
        return bool(config.train and not busy and wait and self._recorder.logged - self._trained_at >= wait)

    def _start(self, config: DaemonConfig) -> None:
        self._flushed = None
        self._trained_at = self._recorder.logged
        self._status.counters.trainings += 1
        folder = self._status.path.parent / f"training-{self._status.counters.trainings}"
        self._training = Training(self._recorder.folder, folder, config.train_arguments, config.train_niceness)
        self._status.phase("training_started", steps=self._trained_at, folder=folder.name)

    def finished(self, *, swap: str) -> LearnedScorer | None:
        """The model of a training that is over, once, if it was promoted or `swap` is "always"."""
        training = self._training
        if training is None or not training.done:
            return None
        self._training = None
        result, scorer = training.result, training.scorer
        if result is None or scorer is None:
            self._status.phase("training_failed", reason=training.error)
            return None
        self._status.phase(
            "training_finished", version=scorer.version, promoted=result.promoted, reason=result.reason,
            mlflow_run=result.mlflow_run, metrics=result.metrics,
        )  # fmt: skip
        return scorer if result.promoted or swap == "always" else None

    def stop(self) -> None:
        """End a training that runs."""
        if self._training is not None:
            self._training.stop()
