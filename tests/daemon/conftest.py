"""Real processes for the tests that start some."""

from __future__ import annotations

from sandbox import hotset, trace

__all__ = ["hotset", "trace"]
