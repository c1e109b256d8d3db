"""Watches a model at work: is it still better than the heuristic, and is its world still the one it learned?"""

from hotset.predictor.guard.guard import Guard, GuardReport

__all__ = ["Guard", "GuardReport"]
