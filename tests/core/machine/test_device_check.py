"""The runner of `make device-check`: its answers without a GPU, and its time limits."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.device import check

REPOSITORY = Path(__file__).resolve().parents[3]
REPORT = """<testsuites><testsuite>
<testcase classname="a" name="one"/><testcase classname="a" name="two"><skipped/></testcase>
<testcase classname="b" name="three"><failure/></testcase>
<testcase classname="b" name="four"><error/></testcase>
</testsuite></testsuites>"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_machine_without_gpu_is_one_line_with_exit_code_6():
    script = [sys.executable, "tests/device/check.py"]
    done = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 6 and done.stdout == ""
    assert re.fullmatch(r"no GPU here: torch \S+ sees none; PYTHON=.*\n", done.stderr)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "WORK", tmp_path / "work")
    monkeypatch.setattr(check, "LIMITS", dict.fromkeys(check.LIMITS, 11.0))
    return check.Check(tmp_path / "out", tmp_path / "wheels")


def has_ended(number):
    """Returns whether a process is gone, or waits for a parent to collect it, within 5 s."""
    state, deadline = Path(f"/proc/{number}/stat"), time.monotonic() + 5.0
    while time.monotonic() < deadline:  # a killed process may not have been scheduled yet
        try:
            if ") Z " in state.read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_hanging_stage_ends_with_its_children(runner, monkeypatch):
    monkeypatch.setitem(check.LIMITS, "tests", 10.0)
    code = "import os, time; os.fork(); print(os.getpid(), flush=True); time.sleep(60)"
    began = time.monotonic()
    outcome = runner.run("tests", [sys.executable, "-c", code])
    assert outcome.status == "out of time" and time.monotonic() - began < 20.0
    for number in (runner.folder / "tests.log").read_text().split():
        assert has_ended(number)
    assert runner.write("a GPU") == 1


@pytest.mark.parametrize(("code", "status"), [("0", "ok"), ("1", "failed"), ("75", "failed")])
def test_stage_has_the_status_of_its_exit_code(code, status, runner):
    assert (
        runner.run("update", [sys.executable, "-c", f"raise SystemExit({code})"]).status == status
    )
    assert runner.write("a GPU") == (status != "ok")


def test_stage_is_left_out_when_no_time_is_left(runner):
    runner.deadline = time.monotonic() + 5.0
    assert runner.run("rl2", [sys.executable, "-c", ""]).status == "no time left"


def test_missing_package_without_a_wheel_is_named(runner, monkeypatch):
    monkeypatch.setattr(check, "PACKAGES", {"torch": "torch", "no_such_module": "no-such-package"})
    assert runner.install() == ["no-such-package"]


def test_report_counts_tests_and_names_failed_ones(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    found = check.count_tests(tmp_path / "report.xml")
    assert found == {"passed": 1, "skipped": 1, "failed": ["b::three", "b::four"]}
