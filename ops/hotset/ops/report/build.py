"""`summary.json` and `report.html` of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from hotset.ops.report import plots
from hotset.ops.report.collect import PHASES, headline, read_run, replay_rest, replays_as_json, summarize
from hotset.ops.run_folder import LANES_FILE

SUMMARY_FILE, REPORT_FILE = "summary.json", "report.html"
_WORDS = {
    "attach": "attached over ZeroMQ",
    "heuristic": "plans with the heuristic",
    "training_started": "training begins, in a child process",
    "training_finished": "training ends",
    "swap": "the model is swapped in",
    "learned": "plans with the model",
    "end": "decoding ends",
}


def write_report(folder: Path) -> dict[str, Any]:
    """Write both files and return the summary. Raises ConfigError if `folder` is not a finished run."""
    run = read_run(folder)
    results = replay_rest(run)
    summary = summarize(run) | {"replay": replays_as_json(results), "report": str(folder / REPORT_FILE)}
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1))
    film = run.folder / "decode" / LANES_FILE
    environment = Environment(
        loader=PackageLoader("hotset.ops.report", "."), undefined=StrictUndefined, autoescape=select_autoescape()
    )
    page = environment.get_template("template.html").render(
        summary=summary,
        headline=headline(summary, results),
        phases=PHASES,
        results=results,
        texts=[s["text"] for s in run.decode["sequences"]],
        misses=Markup(plots.misses_over_time(run)),
        policies=Markup(plots.policies(results)) if results else "",
        film=plots.lane_film(film.parent) if film.is_file() else "",
        colours=plots.COLOURS,
        names=plots.NAMES,
        words=_WORDS,
    )
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")
    return summary
