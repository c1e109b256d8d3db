from hotset.kernels.apply_plan.reference import REASONS, apply_plan

__all__ = ["REASONS", "apply_plan"]
