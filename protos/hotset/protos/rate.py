"""How much of something may happen in a while: both ends bound what the other sends."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Bucket:
    """Token bucket: holds up to `burst` tokens, refilled with `rate` a second."""

    rate: float
    burst: float
    tokens: float = field(init=False)
    at: float | None = None

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, amount: float, now: float) -> bool:
        """Take tokens, or return False if there are too few."""
        if self.at is not None:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if amount > self.tokens:
            return False
        self.tokens -= amount
        return True
