"""Tiers below the hot pool, one class a file behind the interface of base.py."""

from hotset.runtime.tiers.base import Tier, TierFullError, TierIOError, TierStats
from hotset.runtime.tiers.disk import DiskTier
from hotset.runtime.tiers.host import HostTier

__all__ = ["DiskTier", "HostTier", "Tier", "TierFullError", "TierIOError", "TierStats"]
