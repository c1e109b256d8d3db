"""Which model decides inside the step: sends the heads for the device, and knows what became of them.

none      there is no model, or it has no heads for the device
closed    the runtime takes no models, takes them for other features, or pushing is switched off
due       to be sent at the next step
sent      on its way
refused   the runtime gave a reason; not sent again before another model comes, or a new lease
in force  acknowledged, or named in the runtime's steps
tried     steps go on without it for a while, to see how they do
withdrawn it did worse than the built-in policy; never sent again in this session

To take a model back is to send one without bytes. A runtime that does not know this refuses it (`stays`).
"""

from __future__ import annotations

import numpy as np

from hotset.daemon.scorers import LearnedScorer
from hotset.protos.device_features import DEVICE_FEATURES_HASH, PAGE_FEATURES_HASH
from hotset.protos.forest import sha256
from hotset.protos.messages import Ack, InStep, Model

RESEND_STEPS = 256
"""Steps after which a model that is not in force, though nobody refused it, is sent again; twice as many each time."""


class ModelPush:
    """Of one session. `wish` says which model serves, `due` gives what to send."""

    def __init__(self, in_step: InStep, *, enabled: bool = True) -> None:
        self.closed = "" if enabled else "pushing is switched off"
        self.number = 0
        self.state = "none"
        self.reason = "no model is in service"
        self.stays = False
        """Whether the runtime goes on with a model that was taken back."""
        self.withdrawn: dict[str, str] = {}
        """Why, by SHA-256 of the heads that did worse than none."""
        self._wanted: LearnedScorer | None = None
        self._meant = False
        self._leave = False
        self._sent_at = 0
        self._patience = RESEND_STEPS
        if enabled and not in_step.models:
            self.closed = "the runtime decides nothing by a model inside its steps"
        elif enabled and (in_step.value_features, in_step.use_features) != (PAGE_FEATURES_HASH, DEVICE_FEATURES_HASH):
            self.closed = "the runtime keeps other features than this version's models are trained for"

    @property
    def version(self) -> str:
        """Of the model that is to decide; empty for none."""
        return "" if self._wanted is None else self._wanted.version

    @property
    def taken_back(self) -> bool:
        """Whether no model shall decide, though one is in service."""
        return self.state in ("tried", "withdrawn")

    def wish(self, scorer: LearnedScorer | None, *, meant: bool = False) -> bool:
        """This model serves now; `meant` if a person chose it, so that it may be older than the one in force.

        Returns whether it is another than before.
        """
        if scorer is self._wanted and self.state != "none":
            return False
        if scorer is None or not scorer.model.pushed:
            said = "no model is in service" if scorer is None else f"model {scorer.version} has no heads for the device"
            self._wanted, self.state, self.reason = None, "none", said
            return False
        self._wanted, self._meant, self._patience = scorer, meant, RESEND_STEPS
        self.stays = self._leave = False
        if self.closed:
            self.state, self.reason = "closed", self.closed
        elif (why := self.withdrawn.get(scorer.model.card.device_sha256)) is not None:
            self.state, self.reason, self._leave = "withdrawn", why, True
        else:
            self.state, self.reason = "due", ""
        return True

    def take_back(self, reason: str, *, tried: bool = False) -> None:
        """Have no model decide from here on; for good unless it is only `tried`."""
        assert self._wanted is not None
        # One that is tried has left already.
        self._leave, self._patience = self.state != "tried", RESEND_STEPS
        self.state, self.reason = "tried" if tried else "withdrawn", reason
        if not tried:
            self.withdrawn[self._wanted.model.card.device_sha256] = reason

    def restore(self) -> None:
        """A model that was tried shall decide again."""
        self.state, self.reason, self.stays, self._patience = "due", "", False, RESEND_STEPS

    def renewed(self) -> None:
        """We hold the lease anew: who held it meanwhile may have pushed another, or the runtime begun anew."""
        if self._wanted is None or self.closed:
            return
        self._patience, self.stays = RESEND_STEPS, False
        if self.taken_back:
            self._leave = True
        else:
            self.state, self.reason = "due", ""

    def observe(self, in_force: str, epoch: int) -> None:
        """A step said which version decided inside it."""
        if self._wanted is None or self.closed or self.state == "refused":
            return
        if self.taken_back:
            late = bool(in_force) and epoch - self._sent_at >= self._patience
            self._leave, self._patience = self._leave or late, self._patience * (1 + late)
        elif in_force == self.version:
            self.state, self.reason = "in force", ""
        elif self.state != "due" and epoch - self._sent_at >= self._patience:
            self.state, self._patience = "due", 2 * self._patience

    def due(self, epoch: int) -> Model | None:
        """The message to send now, if any; `unsent` if that did not work."""
        if self._wanted is None or not (self.state == "due" or (self.taken_back and self._leave)):
            return None
        self.number += 1
        self._sent_at = epoch
        if self.taken_back:
            self._leave = False
            return Model(number=self.number, version="", sha256=sha256(b""), rollback=True, forest=_NOTHING)
        self.state = "sent"
        card = self._wanted.model.card
        return Model(
            number=self.number, version=self.version, sha256=card.device_sha256, trained=card.trained,
            rollback=self._meant, forest=np.frombuffer(self._wanted.model.pushed, np.uint8),
        )  # fmt: skip

    def unsent(self) -> None:
        """The message could not be sent: the queue was full."""
        if self.taken_back:
            self._leave = True
        else:
            self.state = "due"

    def acknowledged(self, ack: Ack) -> bool:
        """What became of a model, or of taking it back; False if it is not the message sent last."""
        if ack.number != self.number or self._wanted is None:
            return False
        if self.taken_back:
            self.stays = not ack.accepted
        else:
            self.state, self.reason = ("in force", "") if ack.accepted else ("refused", ack.reason)
        return True


_NOTHING = np.zeros(0, np.uint8)
