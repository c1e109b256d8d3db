"""Features of pages, kept up to date step by step. What each means is in `hotset.protos.features`."""

from hotset.predictor.features.state import FeatureState

__all__ = ["FeatureState"]
