"""The heuristic that runtime, daemon and replay share: an average of score margins, and what it says of next use.

At each step a candidate's margin is `max(0, FLOOR + score - threshold)`, where `threshold` is the best score of
its lane that was not selected; a selected page has at least FLOOR, a page that is no candidate 0. The average
is `ema = DECAY * ema + (1 - DECAY) * margin`. Its value, log2 of the steps to the next use, is
`CEILING - log2(ema + EPSILON)`: a page that stays well above the threshold is used at every step (value 0), and
every octave that its average falls doubles the time. The figures were chosen by replay of recorded decodes
(docs/experiments.md).
"""

from __future__ import annotations

DECAY = 0.7
FLOOR = 16.0
CEILING = 5.0
EPSILON = 2.0**-5
