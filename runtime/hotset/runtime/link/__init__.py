"""The decode process's end of the wire: see `ControlLink`."""

from __future__ import annotations

from hotset.runtime.link.control import ControlLink
from hotset.runtime.link.mailbox import LinkCounters
from hotset.runtime.link.server import LinkLimits

__all__ = ["ControlLink", "LinkCounters", "LinkLimits"]
