"""The import arrows of docs/structure.md, held by reading every file's imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "protos": set(),
    "kernels": {"protos"},
    "runtime": {"protos", "kernels"},
    "predictor": {"protos"},
    "training": {"protos", "predictor"},
    "daemon": {"protos", "predictor"},
    "ops": {"protos", "kernels", "runtime", "predictor", "training", "daemon"},
}
BANNED = {
    "runtime": {"lightgbm", "mlflow", "sklearn"},
    "kernels": {"lightgbm", "mlflow", "sklearn", "zmq"},
    "daemon": {"torch", "triton", "transformers"},
    "predictor": {"torch", "triton", "transformers", "zmq"},
    "protos": {"torch", "triton", "transformers", "lightgbm", "mlflow", "sklearn"},
}


def imports_of(file: Path) -> Iterator[str]:
    """Dotted names that `file` imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for name in imports_of(file)
        if (name.startswith("hotset.") and name.split(".")[1] not in allowed)
        or name.split(".")[0] in BANNED.get(package, set())
    ]
    assert not wrong


def test_every_package_is_listed_and_has_no_init() -> None:
    folders = {p.parents[2].name for p in ROOT.glob("*/hotset/*/py.typed")}
    assert folders == set(MAY_IMPORT)
    assert not list(ROOT.glob("*/hotset/__init__.py"))
    assert all((ROOT / p / "hotset" / p / "py.typed").is_file() for p in folders)


@pytest.mark.parametrize(
    "module",
    ["hotset.daemon.server", "hotset.predictor.replay", "hotset.protos.wire", "hotset.ops.demo.run",
     "hotset.ops.report.build"],
)  # fmt: skip
def test_no_torch_behind_our_backs(module: str) -> None:
    """Also indirectly, through what is imported, these must start without torch."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_starts_without_heavy_imports() -> None:
    code = (
        "import sys; from hotset.ops.cli import build; build();"
        "sys.exit(bool({'torch', 'lightgbm', 'numba', 'mlflow', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
