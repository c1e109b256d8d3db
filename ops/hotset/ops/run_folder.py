"""Files that a decode process leaves in its folder: what a report and a demo find there without a model or torch."""

from __future__ import annotations

STEPS_FILE = "steps.jsonl"
"""one JSON object a step, as it ends"""
RESULT_FILE = "decode.json"
"""tokens and figures, at the end"""
PROGRESS_FILE = "progress.json"
"""how far it is: for each bar what is done and what there is to do"""
LANES_FILE = "lanes.npz"
"""a film of a few lanes (LaneFilm.save), whose bytes hold these bits:"""
RESIDENT, SELECTED, MISSED = 1, 2, 4
