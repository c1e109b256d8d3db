"""Write tests/golden/replay_counts.json anew: `python tests/golden/replay_regenerate.py`.

Do so only when a rule of replay or a policy was changed on purpose; say in the commit what moved and why.
"""

from __future__ import annotations

import json
from pathlib import Path

from hotset.predictor.policies import POLICIES
from hotset.predictor.replay import replay_many
from hotset.predictor.trace import read_trace

HERE = Path(__file__).parent
RATIOS = (1.5, 2.0, 4.0)


def golden() -> dict[str, dict[str, int]]:
    """ "POOL RATIO" -> policy -> demand misses on the sample, for every policy that is not learned."""
    trace = read_trace(HERE.parent / "data" / "sample.parquet")
    names = [name for name in POLICIES if not name.startswith(("learned", "lookahead"))]
    found: dict[str, dict[str, int]] = {}
    for pool in ("lane", "shared"):
        for ratio in RATIOS:
            results = replay_many([trace], names, ratio=ratio, pool="lane" if pool == "lane" else "shared")
            found[f"{pool} {ratio:g}"] = {result.policy: result.demand_misses for result in results}
    return found


if __name__ == "__main__":
    (HERE / "replay_counts.json").write_text(json.dumps(golden(), indent=1) + "\n", encoding="utf-8")
