"""Training in this process: rows are binned in a stream, so memory holds one byte a row and feature."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb

from hotset.training.engines.base import Job
from hotset.training.labels import gather
from hotset.training.rows import Report, RowSet, ShardSequence


class LocalEngine:
    """`lightgbm.train` over a `lightgbm.Sequence` a shard."""

    def fit(self, rows: RowSet, job: Job, report: Report) -> lgb.Booster:
        """See `Engine.fit`."""
        report("binning", 0, 1)
        y, weight = gather(rows, job.labels)
        shards: Any = [ShardSequence(shard) for shard in rows.shards]
        data = lgb.Dataset(shards, y, weight=weight, feature_name=list(job.names), params=dict(job.params))
        data.construct()
        report("binning", 1, 1)
        return lgb.train(
            dict(job.params),
            data,
            num_boost_round=job.trees,
            callbacks=[lambda env: report("trees", env.iteration + 1, job.trees)],
        )
