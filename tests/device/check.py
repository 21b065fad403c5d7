"""Checks metarl on a machine with a GPU: `make device-check`.

Needs Python with torch and pytest, and no network: what is missing comes from the wheels that `make
device-wheels` left in --wheels. Stages, each in a process of its own with a time limit:

    packages    installs missing packages into a folder of this check
    tests       the tests marked `cuda`: for every learner the CPU's update, checkpoints that go to
                a CPU and back, full memory, and copies between host and GPU
    update      benchmarks/update.py --gpu
    rl2         benchmarks/rl2.py --gpu
    training    half-cheetah-dir with RL^2, for the time that is left

Writes results.json, results.txt and the log of each stage to $OUT, or to build/device-check.

Exit codes: 0 all is well, 1 a test or a stage failed, 2 a package is missing, 6 no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "build" / "device-work"

PACKAGES = {
    "docstring_parser": "docstring-parser",
    "farama_notifications": "farama-notifications",
    "glfw": "glfw",
    "gymnasium": "gymnasium",
    "mujoco": "mujoco",
    "mujoco._structs": "mujoco-core",
    "OpenGL": "pyopengl",
    "pytest": "pytest",
    "safetensors": "safetensors",
    "sb3_contrib": "sb3-contrib",
    "scipy": "scipy",
    "stable_baselines3": "stable-baselines3",
    "tensorboard": "tensorboard",
    "typeguard": "typeguard",
    "tyro": "tyro",
    "yaml": "pyyaml",
}
"""Packages by a module of each, as far as the check needs them beside torch and NumPy."""

TOTAL = 345.0
"""Seconds for all stages."""

LIMITS = {"packages": 60.0, "tests": 150.0, "update": 60.0, "rl2": 130.0, "training": 45.0}
"""Seconds of each stage, at most."""

NOT_RECORDED = b"updates launch kernels one by one"
"""What a program writes whose updates are not recorded, and therefore slow."""


@dataclass
class Outcome:
    """Outcome of a stage.

    Attributes:
        name: Name of the stage.
        status: "ok", "failed", "out of time" or "no time left".
        seconds: Wall-clock time [s].
        found: What it measured.
    """

    name: str
    status: str
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)


class Check:
    """Runs the stages and keeps their outcomes.

    Args:
        folder: For the results.
        wheels: Folder with wheels.
    """

    def __init__(self, folder: Path, wheels: Path):
        self.folder, self.wheels, self.deadline = folder, wheels, time.monotonic() + TOTAL
        self.outcomes: list[Outcome] = []
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        # plug-ins of other projects could change or stop the tests
        self.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        known = [str(WORK / "packages"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, known))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(WORK, ignore_errors=True)
        (WORK / "packages").mkdir(parents=True)

    def run(self, name: str, command: Sequence[str], *, ends_by_signal: bool = False) -> Outcome:
        """Runs a stage until its limit; a stage that ends by a signal is then asked to stop."""
        limit = min(LIMITS[name], self.deadline - time.monotonic())
        outcome, began = Outcome(name, "no time left"), time.monotonic()
        self.outcomes.append(outcome)
        if limit < 10.0:
            return outcome
        print(f"{name}: at most {limit:.0f} s", flush=True)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            outcome.status = _wait(process, limit, ends_by_signal)
        is_slow = NOT_RECORDED in (self.folder / f"{name}.log").read_bytes()
        if is_slow and name != "tests" and outcome.status == "ok":
            outcome.status = "failed"
        outcome.seconds = time.monotonic() - began
        return outcome

    def install(self) -> list[str]:
        """Installs missing packages; returns those that no wheel provides."""
        missing = [package for module, package in PACKAGES.items() if not _has_module(module)]
        if not missing:
            return []
        # into a folder, not a virtual environment: one inside another does not see its packages
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index"]
        pip += ["--no-deps", "--no-compile", "--target", str(WORK / "packages")]
        pip += ["--find-links", str(self.wheels), *missing]
        return [] if self.run("packages", pip).status == "ok" else missing

    def test(self) -> None:
        """Runs the tests marked `cuda`."""
        report = WORK / "tests.xml"
        # warnings of versions that are not ours are no errors here
        options = ["-m", "cuda", "-W", "default", "-p", "no:cacheprovider", "-q", "-ra"]
        pytest = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", "tests/device"]
        outcome = self.run("tests", pytest)
        if report.exists():
            outcome.found = count_tests(report)
        if outcome.status == "ok" and not outcome.found.get("passed"):
            outcome.status = "failed"  # there is a GPU, so tests must have run

    def measure(self, name: str) -> None:
        """Runs a benchmark."""
        record = WORK / f"{name}.json"
        outcome = self.run(
            name, [sys.executable, "-m", f"benchmarks.{name}", "--gpu", "--json", str(record)]
        )
        if record.exists():
            outcome.found = json.loads(record.read_text())

    def train(self) -> None:
        """Trains for the time that is left."""
        run = WORK / "run"
        options = ["--env", "half-cheetah-dir", "--algo", "rl2", "--device", "cuda"]
        command = [sys.executable, "train.py", *options, "--run-dir", str(run)]
        outcome = self.run("training", command, ends_by_signal=True)
        if (run / "metrics.jsonl").exists():
            outcome.found = summarize(run / "metrics.jsonl")
        if outcome.status == "ok" and not outcome.found:
            outcome.status = "failed"

    def write(self, gpu: str) -> int:
        """Writes the results and prints them; returns the exit code."""
        about = {"gpu": gpu, "python": platform.python_version(), "cores": os.cpu_count()}
        stages = {outcome.name: vars(outcome) for outcome in self.outcomes}
        results = json.dumps({"machine": about, "stages": stages}, indent=2)
        (self.folder / "results.json").write_text(results + "\n")
        lines = describe(gpu, self.outcomes)
        (self.folder / "results.txt").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))
        return int(any(outcome.status != "ok" for outcome in self.outcomes))


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # the package around it is missing
        return False


def _wait(process: subprocess.Popen[bytes], limit: float, ends_by_signal: bool) -> str:
    """Waits for a process and its children, and ends them at the limit; returns the status."""
    grace = 12.0 if ends_by_signal else 0.0
    try:
        status = "ok" if process.wait(max(1.0, limit - grace)) == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "out of time"
        if ends_by_signal:  # 75: stopped and saved
            process.send_signal(signal.SIGTERM)
            try:
                status = "ok" if process.wait(grace) in (0, 75) else "failed"
            except subprocess.TimeoutExpired:
                pass
    if process.poll() is None or status == "out of time":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return status


def count_tests(report: Path) -> dict[str, Any]:
    """Returns the numbers of a JUnit report, and the names of failed tests."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    found: dict[str, Any] = {"passed": 0, "skipped": 0, "failed": []}
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            found["failed"].append(f"{case.get('classname')}::{case.get('name')}")
        else:
            found["skipped" if case.find("skipped") is not None else "passed"] += 1
    return found


def summarize(metrics: Path) -> dict[str, Any]:
    """Returns the progress of a training, and medians of its times [s]."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    if not records:
        return {}
    names = ("time/collect", "time/update", "steps_per_second")
    return {
        "iterations": len(records),
        "env_steps": records[-1]["env_steps"],
        "seconds": records[-1]["seconds"],
        "return_pre": [records[0]["return_pre"], records[-1]["return_pre"]],
        **{name: statistics.median(record[name] for record in records) for name in names},
    }


def describe(gpu: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Returns the lines of the readable table."""
    lines = [f"{gpu}, {os.cpu_count()} cores", ""]
    for outcome in outcomes:
        lines.append(f"{outcome.name:<10} {outcome.status:<14} {outcome.seconds:6.1f} s")
    for outcome in outcomes:
        lines += ["", outcome.name, *_details(outcome)] if outcome.found else []
    return lines


def _details(outcome: Outcome) -> list[str]:
    found = outcome.found
    if outcome.name == "tests":
        numbers = f"  {found['passed']} passed, {found['skipped']} skipped, "
        return [numbers + f"{len(found['failed'])} failed", *(f"  {n}" for n in found["failed"])]
    if outcome.name == "training":
        return [f"  {name:<18} {value}" for name, value in found.items()]
    lines = []
    for record in found["results"] if outcome.name == "rl2" else [found["gpu"]]:
        for name, timing in record["timings"].items():
            lines.append(f"  {name:<42} {timing['median']:9.4f} s")
        for ratio in record["ratios"]:
            spread = f"({ratio['low']:.2f} .. {ratio['high']:.2f})"
            goal = f", goal {ratio['target']:g}" if ratio["target"] else ""
            lines.append(f"  {ratio['name']:<42} {ratio['median']:9.2f} {spread}{goal}")
        for name, peak in record["gpu_memory_mb"].items():
            lines.append(f"  {name + ', peak GPU memory':<42} {peak:9.0f} MB")
        lines += [f"  part {n:<37} {s:9.4f} s" for n, s in record.get("breakdown", {}).items()]
    return lines


def find_gpu() -> tuple[str, str]:
    """Returns the name of the GPU, or "" and the reason why there is none."""
    code = "import torch; print(torch.__version__); print(torch.cuda.get_device_name())"
    command, hint = [sys.executable, "-c", code], "PYTHON=... names another Python"
    if not _has_module("torch"):
        return "", f"{sys.executable} has no torch; {hint}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "", "torch did not answer in 60 s"
    lines = done.stdout.splitlines()
    if done.returncode == 0 and len(lines) == 2:
        return f"{lines[1]}, torch {lines[0]}", ""
    if lines:
        return "", f"torch {lines[0]} sees none; {hint}"
    return "", f"torch cannot be imported ({done.stderr.strip().splitlines()[-1:]}); {hint}"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--wheels", type=Path, default=REPOSITORY / "build" / "device-wheels")
    chosen = options.parse_args()
    gpu, reason = find_gpu()
    if reason:
        print(f"no GPU here: {reason}", file=sys.stderr)
        return 6
    default = REPOSITORY / "build" / "device-check"
    check = Check(Path(os.environ.get("OUT") or default).resolve(), chosen.wheels)
    missing = check.install()
    if missing:
        hint = f"run `make device-wheels` where there is a network, and bring {chosen.wheels}"
        print(f"missing: {', '.join(missing)}; {hint}", file=sys.stderr)
        return 2
    check.test()
    check.measure("update")
    check.measure("rl2")
    check.train()
    return check.write(gpu)


if __name__ == "__main__":
    sys.exit(main())
