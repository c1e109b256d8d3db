"""What the reuse model sees of a page: the names, order and meaning of its features.

A row describes one page of one lane as of the lane's turn in step t: the lane's own layer and the layers
below have selected for step t, the layers above have selected for step t-1 only. So the same row can be made
on the device inside the step, by a daemon after the step, and from a log.

Missing (no such event yet, no such neighbour) is NaN. Ages count steps; scores are those of the trace log
(255 + 8*log2 of attention mass, 0..255). A decayed count with half-life h adds 1 at each event and halves
every h steps. `hotset.predictor.features` is the one implementation.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

FEATURES_VERSION = 5
HALF_LIVES = (2.0, 8.0, 32.0, 128.0)
"""of the decayed use counts, in steps"""
SCORE_DECAYS = (0.5, 0.7, 0.95)
"""of the score averages: average = decay * average + (1 - decay) * score, score 0 where not a candidate"""
NEAR_HALF_LIFE = 8.0
HEAT_HALF_LIFE = 8.0
CHURN_DECAY = 0.8
GAPS = 4
ECHOES = 64
"""earlier steps that vote on a page's next use"""
ECHO_HORIZONS = (2, 8, 24, 60)
REGION = 4
"""pages on each side that count as the region of a page"""


class Feature(NamedTuple):
    """One column of the model's input."""

    name: str
    meaning: str


FEATURES: tuple[Feature, ...] = (
    Feature("age", "steps since the page was last selected, 0 if selected at this step"),
    *(Feature(f"gap_{i}", f"steps between uses, {i} gaps ago (1: the newest)") for i in range(1, GAPS + 1)),
    Feature("streak", "length of the run of consecutive steps with a use that the last use ended"),
    Feature("use_rate", "uses a step since the sequence was first observed"),
    *(Feature(f"count_{h:g}", f"decayed count of uses, half-life {h:g}") for h in HALF_LIVES),
    Feature("score", "score at this step"),
    Feature("last_score", "score when last a candidate"),
    Feature("seen_age", "steps since last a candidate"),
    Feature("margin", "last_score minus the lane's best score not selected at this step"),
    Feature("trend", "score minus the score before it, when last a candidate"),
    *(Feature(f"score_ema_{d:g}", f"average of scores, decay {d:g}") for d in SCORE_DECAYS),
    Feature("margin_ema", "average of margins, decay and margin as in hotset.protos.heat, 0 where not a candidate"),
    Feature("near_count", f"decayed count of being a candidate not selected, half-life {NEAR_HALF_LIFE:g}"),
    Feature("near_age", "steps since last a candidate not selected"),
    Feature("from_end", "pages between this one and the newest"),
    Feature("position", "page number over that of the newest page"),
    Feature("previous_age", "age of the page before, in this lane"),
    Feature("next_age", "age of the page after, in this lane"),
    Feature("previous_score", "score at this step of the page before, 0 if not a candidate"),
    Feature("next_score", "score at this step of the page after, 0 if not a candidate"),
    Feature("region", f"pages selected at this step among the {REGION} on each side"),
    Feature("peers", "share of the layer's other heads that selected the page at this step"),
    Feature("peer_age", "smallest age among the layer's other heads"),
    Feature("peer_score", "largest last_score among the layer's other heads, each minus its seen_age"),
    Feature("below_1", "share of heads of the layer below that selected the page at this step"),
    Feature("below_2", "the same two layers below"),
    Feature("below_3", "the same three layers below"),
    Feature("below", "share of heads of all layers below that selected the page at this step"),
    Feature("above_1", "share of heads of the layer above that selected the page at the step before"),
    Feature("above", "share of heads of all layers above that selected the page at the step before"),
    Feature("layer_heat", f"decayed count of uses in this layer and two on each side, half-life {HEAT_HALF_LIFE:g}"),
    Feature("heat", f"decayed count of uses in all layers, half-life {HEAT_HALF_LIFE:g}"),
    *(
        Feature(f"echo_{h}", f"share of votes of the {ECHOES} most similar earlier steps for a use within {h} steps")
        for h in ECHO_HORIZONS
    ),
    Feature("turnover", "share of the lane's selection at this step that was not selected at the step before"),
    Feature("churn", f"average of turnover, decay {CHURN_DECAY:g}"),
    Feature("threshold", "the lane's best score not selected at this step"),
    Feature("spread", "threshold minus the lane's lowest candidate score at this step"),
    Feature("layer", "decoder layer"),
)

FEATURES_HASH = hashlib.sha256(
    "\n".join([f"version {FEATURES_VERSION}", *(f"{f.name}: {f.meaning}" for f in FEATURES)]).encode()
).hexdigest()
"""Changes whenever a feature's name, meaning or place does. A model for another hash is refused."""
