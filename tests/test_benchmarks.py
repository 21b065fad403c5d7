"""The benchmarks run and compare what they say; how fast anything is, no test asks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def ran(folder, name, *options):
    """Runs a benchmark in its shortest form; returns its record and what it printed."""
    record = folder / "record.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", record, *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(record.read_text()), done.stdout


def assert_ordered(ratios):
    for ratio in ratios:
        assert 0.0 < ratio["low"] <= ratio["median"] <= ratio["high"], ratio["name"]


def test_the_collector_is_measured_against_loops_that_replay_its_steps(tmp_path):
    record, said = ran(tmp_path, "collect", "--envs", "half-cheetah-dir")
    (found,) = record["results"]
    assert_ordered(found["ratios"])
    # 4 tasks x 5 episodes x 200 steps: nobody falls, and each loop does the same work
    same = ("bare", "lean", "together", "ours", "rl2")
    assert {found["steps"][name] for name in same} == {4000}
    assert {"async", "subproc"} < found["steps"].keys()
    for ratio in found["ratios"]:
        assert ratio["name"] in said


def test_the_update_is_measured_against_the_obvious_way(tmp_path):
    record, said = ran(tmp_path, "update")
    assert_ordered(record["ratios"])
    for ratio in record["ratios"]:
        assert ratio["name"] in said


@pytest.mark.parametrize("robot", ["ant-dir", "hopper-vel"])
def test_terrain_is_measured_against_flat_ground(robot, tmp_path):
    record, said = ran(tmp_path, "terrain", "--envs", robot)
    assert_ordered(record["results"])
    assert [ratio["name"] for ratio in record["results"]] == [robot]
    assert robot in said
