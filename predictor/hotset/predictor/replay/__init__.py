"""Replay: run recorded traces against policies and count. The rules are in docs/replay.md."""

from hotset.predictor.replay.files import replay_files
from hotset.predictor.replay.link import LinkModel
from hotset.predictor.replay.pages import replay_pages
from hotset.predictor.replay.run import Pool, ReplayResult, replay, replay_many

__all__ = ["LinkModel", "Pool", "ReplayResult", "replay", "replay_files", "replay_many", "replay_pages"]
