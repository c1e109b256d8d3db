"""What training and policies ask of a feature state, of whatever columns."""

from __future__ import annotations

from typing import Protocol

from hotset.predictor.features.memory import Bool, Float32, Int32, UInt8


class Memory(Protocol):
    """What is asked of a feature state's memory."""

    @property
    def last_used(self) -> Int32:
        """[L, P] step of the last selection, -1 before it."""

    @property
    def last_seen(self) -> Int32:
        """[L, P] step of the last candidacy, -1 before it."""

    @property
    def pages(self) -> int:
        """Pages that fit."""


class Features(Protocol):
    """A feature state of one sequence: `FeatureState`, or the device's."""

    @property
    def steps(self) -> int:
        """Steps observed so far."""

    @property
    def memory(self) -> Memory:
        """As of the last observed step."""

    @property
    def churn(self) -> Float32:
        """[L] average of turnover."""

    def observe(self, length: int, pages: Int32, scores: UInt8, selected: Bool) -> None:
        """Learn one step."""

    def rows(self, lanes: Int32, pages: Int32) -> Float32:
        """[m, F] as of the last observed step."""
