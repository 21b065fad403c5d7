"""The wheel, installed into a fresh environment and used from another directory."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from commands import REPOSITORY, TRAIN, call, read_records

SHORT = "--env navigation-2d --iterations 2 --seed 3 --device cpu --sampler.num-episodes 2".split()
QUIET = "--trainer.evaluate-tasks 0 --trainer.no-video --trainer.logger none".split()
SOURCES = ("metarl", "envs", "configs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Builds and installs the wheel beside the present packages; returns the `bin` folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source, wheels = folder / "source", folder / "wheels"
    source.mkdir()
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    run([*pip, "wheel", *offline, "--wheel-dir", wheels, source])
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    # Python does not read the .pth files of a folder that a .pth file adds: no editable install
    present = sysconfig.get_path("purelib")
    (Path(site) / "present.pth").write_text(present)
    (wheel,) = wheels.glob("metarl_robots-*.whl")
    run([*pip, "--python", python, "install", *offline[:2], wheel])
    return python.parent


def run(command):
    """Runs a command that must succeed; returns its output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_trains_as_the_clone_does(installed, tmp_path):
    arguments = [*SHORT, *QUIET]
    done = call(installed / "metarl", "train", *arguments, "--run-dir", "wheel", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    done = call(*TRAIN, *arguments, "--run-dir", tmp_path / "clone", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert read_numbers(tmp_path / "wheel") == read_numbers(tmp_path / "clone")
    one, other = (tmp_path / name / "config.yaml" for name in ("wheel", "clone"))
    assert one.read_text() == other.read_text()  # so both read the same preset


def read_numbers(run):
    """Returns the records of metrics.jsonl without their times."""
    timed = ("seconds", "steps_per_second", "time/collect", "time/update")
    return [{k: v for k, v in record.items() if k not in timed} for record in read_records(run)]


@pytest.mark.parametrize("env", ["navigation-2d", "quadruped-vel"])  # one has a model of its own
def test_wheel_checks_an_environment(installed, tmp_path, env):
    arguments = ["check-env", env, "--json", "out.json"]
    done = call(installed / "python", "-m", "metarl", *arguments, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text())["violations"] == 0


def test_wheel_is_imported_and_knows_its_version(installed, tmp_path):
    code = (
        "import metarl, metarl.envs, gymnasium\n"
        "print(metarl.__file__, metarl.envs.__file__)\n"
        "print(gymnasium.make('metarl/navigation-2d').reset(seed=0)[0].shape)"
    )
    done = call(installed / "python", "-c", code, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    places, shape = done.out.splitlines()
    assert str(REPOSITORY) not in places and shape == "(2,)"
    done = call(installed / "metarl", "--version", cwd=tmp_path)
    assert done.out.startswith("metarl ") and done.out.count(".") == 2
