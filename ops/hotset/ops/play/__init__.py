"""An engine without a model: see `TracePlayer`."""

from __future__ import annotations

from hotset.ops.play.inside import InsideStep
from hotset.ops.play.player import Played, TracePlayer, geometry_of
from hotset.ops.play.pool import Pool

__all__ = ["InsideStep", "Played", "Pool", "TracePlayer", "geometry_of"]
