from hotset.kernels.resolve.reference import PoolTooSmallError, Resolved, resolve

__all__ = ["PoolTooSmallError", "Resolved", "resolve"]
