"""Cut tests/data/sample.parquet from recorded npz traces; see README.md beside it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from hotset.predictor.trace import import_npz

STEPS, LAYERS = 80, slice(9, 15)


def cut(source: Path, destination: Path) -> None:
    """Write the chosen steps and layers of one npz trace as another."""
    with np.load(source, allow_pickle=False) as full:
        arrays = {name: full[name][:STEPS, LAYERS] for name in ("did", "sel", "score", "spec")}
        meta = json.loads(str(full["meta"]))
    for early in (1, 2):
        arrays["spec"][:, :early, early - 1] = np.iinfo(np.uint16).max
    meta |= {"steps": STEPS, "layers": arrays["did"].shape[1], "model": "Qwen2.5-Coder-0.5B-Instruct"}
    del meta["text"]
    np.savez_compressed(destination, meta=np.array(json.dumps(meta)), **arrays)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        cuts = [Path(folder) / Path(source).name for source in sys.argv[1:]]
        for source, short in zip(sys.argv[1:], cuts, strict=True):
            cut(Path(source), short)
        target = Path(__file__).with_name("sample.parquet")
        target.unlink(missing_ok=True)
        import_npz(cuts, target)
