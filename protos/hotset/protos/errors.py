"""Errors that cross package borders."""

from __future__ import annotations


class HotsetError(Exception):
    """A mistake that a user or a peer can mend; the message says what was wrong and what to do.

    The command line prints it on one line and exits with `exit_code`; it never shows a traceback for it.
    """

    exit_code = 1


class ProtocolError(HotsetError):
    """The bytes or values received break the wire protocol. The only error that decoding raises."""

    exit_code = 3


class TraceError(HotsetError):
    """A trace file is corrupt, truncated or foreign. The message names the file and what is wrong with it."""

    exit_code = 4


class ModelError(HotsetError):
    """A predictor model cannot be loaded or used: missing, wrong hash, or other features than ours."""

    exit_code = 5


class ConfigError(HotsetError):
    """An option or a combination of options cannot work; the message says which and what would."""

    exit_code = 2


class CapacityError(HotsetError):
    """A tier, the page table or the pool is too small for what was asked."""

    exit_code = 6
