"""What a daemon logs: one event a line, its name stable and listed here, its facts as fields."""

from __future__ import annotations

import logging
import re
from typing import Any

EVENTS: dict[str, str] = {
    "serving": "watches for decode processes, with everything compiled",
    "stopping": "was told to stop, and finishes its logs",
    "metrics_serving": "serves metrics and health",
    "config_reloaded": "took the configuration up; `changed` names the keys",
    "config_kept": "`keys` need a restart to change, and are left as they were",
    "config_refused": "the new configuration is wrong, and the old one stays; `mistakes` lists why",
    "attach_failed": "a runtime's endpoint cannot be used",
    "unanswered": "a runtime says nothing: it is stopped, or nobody listens there; we go on asking",
    "session_ended": "a session is over",
    "session_failed": "a fault of the daemon ended a session; the others go on",
    "scoring_failed": "a fault of the daemon ended planning of a session; the built-in policy goes on",
    "attach": "holds the lease of a decode process",
    "standby": "another controller holds it",
    "lease_lost": "held it, and does no more",
    "heuristic": "plans with the heuristic from here on",
    "learned": "plans with a model from here on; or the guard gave it back its turn",
    "resumed": "took up what an earlier daemon had in service",
    "training_started": "a child trains on the log",
    "training_finished": "it left a model",
    "training_failed": "it left none",
    "swap": "a model was put into service",
    "model_refused": "a model was not what it should be; the heuristic plans",
    "push": "a model's heads for the device were sent to the runtime",
    "push_accepted": "they decide inside the step from here on",
    "push_refused": "the runtime does not take them, for this `reason`; they are not sent again",
    "push_tried": "they seem to do worse than none, for this `reason`; steps go without them for a while, to see",
    "push_restored": "steps without them did worse, for this `reason`; they decide again",
    "push_withdrawn": "they did worse than none, for this `reason`; they are not sent again",
    "lookahead_refused": "the runtime does not follow thresholds and distances of its lookahead",
    "tables_full": "`table_bytes` do for no more sequences; those beyond are left to the runtime",
    "end": "the log of a session is complete",
    "log_failed": "the trace log cannot be written any more; planning goes on",
    "status_failed": "status.json cannot be written",
    "state_failed": "the state file cannot be written",
    "state_ignored": "the state file is damaged, or of another version",
    "notify_failed": "systemd cannot be told",
    "message": "anything else, from a library",
}
_PLAIN = re.compile(r"[\w./:@%+-]+")

logger = logging.getLogger("hotset.daemon")


def say(level: int, event: str, /, *, failure: BaseException | None = None, **fields: Any) -> None:
    """Log one of EVENTS; `failure` adds its traceback."""
    text = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
    logger.log(level, "event=%s%s", event, text, exc_info=failure, extra={"event": event, "fields": fields})


def _shown(value: Any) -> str:
    """On one line, whatever a peer may have put in it."""
    text = value if isinstance(value, str) else str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)
