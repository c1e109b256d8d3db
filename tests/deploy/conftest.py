"""Real processes, in folders of their own."""

from sandbox import hotset

__all__ = ["hotset"]
