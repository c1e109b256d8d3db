"""Compiled scoring of LightGBM forests."""

from hotset.predictor.forest.forest import Forest

__all__ = ["Forest"]
