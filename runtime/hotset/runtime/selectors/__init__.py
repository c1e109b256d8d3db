"""Selectors, one a file, by the name that users give."""

from hotset.runtime.selectors.base import Batch, Selector
from hotset.runtime.selectors.bounds import BoundsSelector
from hotset.runtime.selectors.mass import MassSelector

SELECTORS: dict[str, type[Selector]] = {"bounds": BoundsSelector, "mass": MassSelector}

__all__ = ["SELECTORS", "Batch", "BoundsSelector", "MassSelector", "Selector"]
