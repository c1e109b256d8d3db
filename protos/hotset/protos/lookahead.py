"""What a lookahead tells of a page: the columns that follow a page's own features in the model's second head.

A lookahead ranks pages for a lane by a query estimated a layer early. When layer l is ranked, the layers below it
have been ranked for the same step too, and their ranks tell as well. Ranks count from 0; none is NaN.
"""

from __future__ import annotations

from hotset.protos.features import Feature

RECALL_DECAY = 0.9
PROTECTED = 0.03
"""least probability of use at which a resident page is protected for this step"""
VALUE_UNUSED, VALUE_USED = 2.0, -1.0
"""values, in log2 of steps, of a page that is surely not, and surely used at this step"""
SAFE_PROBABILITY = 0.5
"""least probability of use at which to prefetch while no movement budget says another: right more often than wrong"""
DELAYS = 0.25
"""share of a prefetch's time on an idle link that a miss waits for, as misses may come while it is there"""
UTILISATION_KEPT = 0.8
"""of the link's utilisation as known, a step"""

LOOKAHEAD_FEATURES: tuple[Feature, ...] = (
    Feature("rank", "place of the page in the lane's lookahead for this step"),
    Feature("rank_before", "the same at the step before"),
    Feature("rank_gain", "rank_before minus rank"),
    Feature("peer_rank", "best rank among the layer's other heads"),
    Feature("below_rank", "best rank among the heads of the layer below"),
    Feature("ranked_below", "share of heads of the four layers below that rank the page among their first k"),
    Feature("ranked_in_all", "the same of all layers below"),
    Feature("beside_rank", "better rank of the pages before and after"),
    Feature("recall", f"share of the lane's first k that were selected, average of past steps, decay {RECALL_DECAY}"),
    Feature("news", "share of the lane's first k that were not selected at the step before"),
    Feature("news_rank", "place of the page among ranked pages that were not selected at the step before"),
    Feature("news_share", "news_rank over the pages that the lane's churn makes new at a step"),
    Feature("turns_ranked", "steps in a row, up to this one, at which the page was ranked"),
)
