"""How much the fault tests do: little by default, the full sizes of docs/faults.md by `make soak`.

The variables do not begin with HOTSET_, which a daemon would take for configuration that it does not know.
"""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "8"))
"""Kills and stops of either side at random moments."""
MESSAGES = int(os.environ.get("FAULTS_MESSAGES", "30000"))
"""Fuzzed messages over the socket."""
STEPS = int(os.environ.get("FAULTS_STEPS", "5000"))
"""Steps of the soak for leaks."""
EMBEDDED = os.environ.get("FAULTS_MODEL", "") == "embedded"
"""Compare the tokens of the demo's model, not those of a tiny one with random weights."""
SEED = int(os.environ.get("FAULTS_SEED", "0"))
"""Of every random choice here; a test that fails is repeated with the seed that it names."""
