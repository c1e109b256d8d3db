"""The container file: agrees with the daemon, and what it leaves out is missed by nobody who is to run in the image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from hotset.daemon import probe
from hotset.daemon.config import KEYS
from hotset.daemon.settings import OTHER_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "ops" / "deploy" / "container" / "Containerfile"
TEXT = FILE.read_text().replace("\\\n", " ")
INSTRUCTIONS = [tuple(line.split(None, 1)) for line in TEXT.splitlines() if line and not line.startswith("#")]
PORT = 9747
# Every module of these, and what the commands beside the daemon are made of.
NEEDED = """
import importlib, pkgutil, sys
lacking = sys.argv[1:]
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in lacking:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Lacking())
import hotset.daemon, hotset.ops.commands, hotset.ops.play, hotset.ops.top, hotset.predictor, hotset.protos
packages = [hotset.daemon, hotset.ops.commands, hotset.ops.play, hotset.ops.top, hotset.predictor, hotset.protos]
for package in packages:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
for name in ("hotset.training.job", "hotset.training.registry", "hotset.runtime.engine"):
    importlib.import_module(name)
from hotset.ops.cli import main
sys.argv = ["hotset", "decode", "--prompt", "x"]
main()
"""


def values(name: str) -> list[str]:
    return [value for instruction, value in INSTRUCTIONS if instruction == name]


def left_out() -> list[str]:
    (argument,) = [value for value in values("ARG") if value.startswith("WITHOUT=")]
    return argument.removeprefix("WITHOUT=").split("|")


def test_the_container_file_agrees_with_the_daemon() -> None:
    assert "10001:10001" in values("USER")
    assert "useradd --uid 10001 " in TEXT
    assert values("EXPOSE") == [str(PORT)]
    assert values("ENTRYPOINT") == ['["hotset", "daemon"]']
    (health,) = values("HEALTHCHECK")
    assert health.endswith('CMD ["python", "-m", "hotset.daemon.probe"]')
    (environment,) = values("ENV")
    variables = dict(pair.split("=", 1) for pair in environment.split())
    ours = {name for name in variables if name.startswith("HOTSET_")}
    assert ours <= OTHER_VARIABLES | {key.variable for key in KEYS.values()}
    assert variables["HOTSET_METRICS_PORT"] == str(PORT)
    assert probe.url(variables) == f"http://127.0.0.1:{PORT}/healthz"
    # Where it writes must be there, belong to its user, and outlive the container.
    (made,) = re.findall(r"install -d -o hotset -g hotset -m 0700 (.*)", TEXT)
    (kept,) = values("VOLUME")
    written = [
        variables["HOTSET_LOG_DIR"],
        variables["HOTSET_MLFLOW"].removeprefix("sqlite:///"),
        *values("WORKDIR")[1:],
    ]
    for folder in json.loads(kept):
        assert folder in made.split()
    assert variables["NUMBA_CACHE_DIR"] in json.loads(kept)
    assert all(path.startswith("/var/lib/hotset") for path in written)
    assert variables["HOTSET_RUNTIME_DIR"] in made.split()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (FILE.parent / (FILE.name + ".dockerignore")).read_text().split()
    named = [word for value in values("COPY") if "--from" not in value for word in value.split()[:-1]]
    assert "pyproject.toml" in named
    assert all((ROOT / name).exists() and name not in ignored for name in named)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packaged = [name.partition("/")[0] for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    for name in [*packaged, project["project"]["readme"], *project["project"]["license-files"]]:
        assert (ROOT / name).exists()
        assert name not in ignored


def test_the_steps_that_choose_what_to_install_choose_it(tmp_path: Path) -> None:
    """The very line of the file, run here."""
    (step,) = re.findall(r"&& (python -c .*?) +&& /opt", TEXT)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    names = os.environ | {"WITHOUT": "|".join(left_out())}
    names["PATH"] = f"{Path(sys.executable).parent}:{names['PATH']}"
    subprocess.run(["sh", "-ec", step], cwd=tmp_path, env=names, check=True)
    chosen = set((tmp_path / "needed.txt").read_text().splitlines())
    wanted = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert {re.split(r"\W", line)[0] for line in wanted - chosen} == set(left_out())
    assert chosen < wanted


def test_nobody_in_the_image_misses_what_is_left_out() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEEDED, *left_out()], capture_output=True, text=True, check=False, timeout=120
    )  # fmt: skip
    # All of it was there; decoding, which is not for this image, says what it lacks.
    assert done.returncode == 1
    assert re.fullmatch(r"hotset: this needs \w+, which is not installed here; .*\n", done.stderr)
