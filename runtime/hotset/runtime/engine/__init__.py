"""How an engine that is not ours joins: one class, no torch. docs/engine.md walks through an integration."""

from __future__ import annotations

from hotset.runtime.engine.engine import CheckedModel, CheckedPlan, Engine, check_model
from hotset.runtime.engine.pages import Accesses, PageTables

__all__ = ["Accesses", "CheckedModel", "CheckedPlan", "Engine", "PageTables", "check_model"]
