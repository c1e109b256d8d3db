from hotset.kernels.reclaim.reference import POLICIES, effective_value, reclaim, reclaim_inline

__all__ = ["POLICIES", "effective_value", "reclaim", "reclaim_inline"]
