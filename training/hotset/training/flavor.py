"""Makes a model folder an MLflow model too: any MLflow tool can load and serve the native LightGBM text.

Written by hand rather than by `mlflow.lightgbm.log_model`, which would store a second copy of the text and
leave the card out.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from hotset.protos.features import FEATURES
from hotset.training.store import import_mlflow

_REQUIREMENTS = ("mlflow-skinny", "lightgbm", "numpy", "pandas", "scikit-learn")
_PYTHON_ENV = "python_env.yaml"


def add_mlmodel(folder: Path, text_file: str) -> None:
    """Write `MLmodel`, `requirements.txt` and `python_env.yaml` beside the model text `folder/text_file`."""
    import_mlflow()
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    requirements = [f"{name}=={version(name)}" for name in _REQUIREMENTS]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    (folder / _PYTHON_ENV).write_text(f"python: {platform.python_version()}\ndependencies:\n- -r requirements.txt\n")
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.float, feature.name) for feature in FEATURES]),
        outputs=Schema([ColSpec(DataType.double)]),
    )
    model = Model(signature=signature)
    # What pyfunc.add_to_model would add; importing pyfunc costs a second and warns about its own type hints.
    model.add_flavor(
        "python_function",
        loader_module="mlflow.lightgbm",
        python_version=platform.python_version(),
        data=text_file,
        env={"virtualenv": _PYTHON_ENV},
    )
    model.add_flavor(
        "lightgbm",
        lgb_version=version("lightgbm"),
        data=text_file,
        model_class="lightgbm.basic.Booster",
    )
    model.save(str(folder / "MLmodel"))
