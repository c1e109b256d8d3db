"""The daemon neither unpickles nor executes what it receives: its own code holds nothing that could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BANNED_MODULES = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "codeop", "runpy",
    "torch", "yaml", "xmlrpc",
}  # fmt: skip
BANNED_NAMES = {"eval", "exec", "compile", "__import__", "input"}
BANNED_ATTRIBUTES = {("os", "system"), ("os", "popen"), ("importlib", "import_module"), ("np", "frompyfunc")}


def module_file(name: str) -> Path | None:
    parts = name.split(".")
    if parts[0] != "hotset" or len(parts) < 2:
        return None
    base = ROOT / parts[1] / Path(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def closure() -> dict[Path, ast.AST]:
    """Every file of ours that the daemon can come to import, in functions too."""
    todo, seen = list((ROOT / "daemon").rglob("*.py")), dict[Path, ast.AST]()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen[path] = tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imports(tree):
            parts = name.split(".")
            todo += [f for n in range(2, len(parts) + 1) if (f := module_file(".".join(parts[:n]))) is not None]
    return seen


def wrongs(tree: ast.AST) -> Iterator[str]:
    yield from (f"imports {name}" for name in imports(tree) if name.split(".")[0] in BANNED_MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BANNED_NAMES:
            yield f"line {node.lineno}: {node.id}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in BANNED_ATTRIBUTES:
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell") and not _is_false(node.value):
            yield f"line {node.value.lineno}: {node.arg}"


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_the_closure_is_whole() -> None:
    files = {str(path.relative_to(ROOT)) for path in closure()}
    assert {
        "daemon/hotset/daemon/server.py", "predictor/hotset/predictor/model.py", "protos/hotset/protos/wire.py",
        "predictor/hotset/predictor/forest/parse.py", "predictor/hotset/predictor/trace/writer.py",
    } <= files  # fmt: skip


def test_nothing_in_it_unpickles_or_executes() -> None:
    found = {str(path.relative_to(ROOT)): list(wrongs(tree)) for path, tree in closure().items()}
    assert {path: said for path, said in found.items() if said} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "def f():\n import torch\n torch.load('x')", "eval('1')",
        "run = exec", "import numpy as np\nnp.load('x', allow_pickle=True)", "import os\nos.system('x')",
        "subprocess.run('x', shell=True)", "from yaml import load", "builtins = __import__('builtins')",
    ],
)  # fmt: skip
def test_what_would_is_found(source: str) -> None:
    assert list(wrongs(ast.parse(source)))
