from hotset.kernels.prefetch.reference import REASONS, begin_prefetch, commit_prefetch

__all__ = ["REASONS", "begin_prefetch", "commit_prefetch"]
