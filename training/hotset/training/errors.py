"""What can go wrong in training and in the registry, as mistakes a user can mend."""

from __future__ import annotations

from hotset.protos.errors import HotsetError


class TrainingError(HotsetError):
    """The logs or options given do not allow training: too little data, unknown engine, no room to write."""

    exit_code = 6


class RegistryError(HotsetError):
    """The tracking store or the registry cannot do what was asked: no such model, version, alias or server."""

    exit_code = 7
