"""The benchmarks run, and compare equal work; no test depends on a speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def run(folder, name, *options):
    """Runs a benchmark in its shortest form; returns its record and its output."""
    record = folder / "record.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", record, *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(record.read_text()), done.stdout


def assert_ordered(ratios):
    for ratio in ratios:
        assert 0.0 < ratio["low"] <= ratio["median"] <= ratio["high"], ratio["name"]


def test_collector_is_compared_with_loops_of_the_same_steps(tmp_path):
    record, output = run(tmp_path, "collect", "--envs", "half-cheetah-dir")
    (robot,) = record["results"]
    assert_ordered(robot["ratios"])
    # 4 tasks x 5 episodes x 200 steps: no robot falls, and each loop does the same work
    same = ("bare", "lean", "together", "ours", "rl2")
    assert {robot["steps"][name] for name in same} == {4000}
    assert {"async", "subproc"} < robot["steps"].keys()
    for ratio in robot["ratios"]:
        assert ratio["name"] in output


def test_update_is_compared_with_the_obvious_way(tmp_path):
    record, output = run(tmp_path, "update")
    assert_ordered(record["ratios"])
    for ratio in record["ratios"]:
        assert ratio["name"] in output


def test_rl2_is_compared_with_the_obvious_way(tmp_path):
    record, output = run(tmp_path, "rl2", "--memories", "gru", "mingru")
    assert max(record["agreement"].values()) < 1e-4
    (result,) = record["results"]
    assert_ordered(result["ratios"])
    assert {timing["work"] for timing in result["timings"].values()} == {1600.0}
    for ratio in result["ratios"]:
        assert ratio["name"] in output


def test_two_processes_are_compared_with_one(tmp_path):
    record, output = run(tmp_path, "distributed")
    for algo, found in record["found"].items():
        assert min(found["ratio"].values()) > 0.0 and found["bytes"] > 0.0
        assert algo in output


def test_latency_of_exported_policies_is_measured(tmp_path):
    record, output = run(tmp_path, "deploy")
    for result in record["results"]:
        assert 0.0 < result["median"] <= result["tail"] <= result["longest"]
        assert result["name"] in output
    assert {"gru", "lstm", "mingru"} <= {result["name"] for result in record["results"]}


@pytest.mark.parametrize("robot", ["ant-dir", "hopper-vel"])
def test_terrain_is_compared_with_flat_ground(robot, tmp_path):
    record, output = run(tmp_path, "terrain", "--envs", robot)
    assert_ordered(record["results"])
    assert [ratio["name"] for ratio in record["results"]] == [robot]
    assert robot in output


def test_served_controls_are_those_of_a_session(tmp_path):
    record, output = run(tmp_path, "serve")
    assert [result["transport"] for result in record["results"]] == ["udp", "unix"]
    for result in record["results"]:
        assert (result["steps"], result["different"]) == (500, 0)
        assert 0.0 < result["median"] <= result["p999"] <= result["longest"]
        assert result["transport"] in output
