from hotset.kernels.release.reference import release

__all__ = ["release"]
