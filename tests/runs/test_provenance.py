import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metarl import experiment
from metarl.core.errors import CheckpointError
from metarl.core.tasks import Variable
from metarl.envs.registry import ENVIRONMENTS, make
from metarl.runs import provenance
from metarl.runs.provenance import describe_version_change, write_run_json
from metarl.runs.recorded import read_spec

SPEC = make("navigation-2d").spec


def test_run_json_has_versions_machine_and_device(tmp_path):
    assert write_run_json(tmp_path, SPEC, device="cpu", threads=2) == []
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["versions"]["torch"] == metadata.version("torch")
    assert set(record["versions"]) == {"metarl", "python", "torch", "mujoco", "gymnasium", "numpy"}
    assert all(record["versions"].values()) and record["processor"]
    assert (record["device"], record["threads"], record["resumed"]) == ("cpu", 2, [])
    assert "bit for bit" in record["contract"]


def test_infinite_action_range_is_read_as_numbers(tmp_path):
    ends = (-np.inf, -1.0), (np.inf, 1.0)
    write_run_json(tmp_path, replace(SPEC, action_range=ends), device="cpu", threads=1)
    spec = read_spec(tmp_path)
    assert spec is not None and spec.action_range == ends
    assert np.clip(2.0, *np.array(spec.action_range)).tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("device", "is_deterministic", "is_promised"),
    [
        ("cpu", False, True),
        ("NVIDIA H100 80GB HBM3", False, False),
        ("NVIDIA H100 80GB HBM3", True, True),
        ("mps", False, False),
    ],
)
def test_bits_are_promised_where_the_device_repeats_them(
    tmp_path, device, is_deterministic, is_promised
):
    settings = {"device": device, "threads": 2, "is_deterministic": is_deterministic}
    write_run_json(tmp_path, SPEC, **settings)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["is_repeatable"] is is_promised
    assert ("is the same bit for bit" in record["contract"]) is is_promised
    assert ("not promised bit for bit" in record["contract"]) is not is_promised


def test_deterministic_torch_is_recognised(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert not experiment._is_deterministic()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert experiment._is_deterministic()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    assert not experiment._is_deterministic()


def test_run_json_defines_the_environment_in_strict_json(tmp_path):
    odd = Variable("mass", "kg", np.float32(0.5), np.inf, bands=((0.5, 1.0), (2.0, np.inf)))
    tasks = SimpleNamespace(variables=(odd,), held_out=np.bool_(True))  # of a plug-in
    spec = replace(SPEC, tasks=tasks, floors={"still": np.float64(-2.5)})
    write_run_json(tmp_path, spec, device="cpu", threads=2)
    text = (tmp_path / "run.json").read_text()
    env = json.loads(text, parse_constant=pytest.fail)["env"]
    bands = [[0.5, 1.0], [2.0, "inf"]]
    mass = {"name": "mass", "unit": "kg", "low": 0.5, "high": "inf", "bands": bands, "labels": []}
    assert env["tasks"] == {"train": [mass], "test": [mass]} and env["held_out"] is True
    assert (env["name"], env["version"]) == ("navigation-2d", SPEC.version)
    assert (env["horizon"], env["dt"]) == (SPEC.horizon, SPEC.dt)
    assert (env["action_scale"], env["reward"]) == (SPEC.action_scale, SPEC.reward)
    assert env["floors"] == {"still": -2.5}


def test_ranges_of_training_and_test_tasks_are_recorded(tmp_path):
    spec = ENVIRONMENTS["walker2d-params"].spec("walker2d-params")
    write_run_json(tmp_path, spec, device="cpu", threads=2)
    tasks = json.loads((tmp_path / "run.json").read_text())["env"]["tasks"]
    for kind, distribution in (("train", spec.tasks), ("test", spec.tasks.test)):
        found = [(v["name"], v["unit"], v["low"], v["high"]) for v in tasks[kind]]
        assert found == [(v.name, v.unit, v.low, v.high) for v in distribution.variables]


def test_other_version_of_the_environment_is_reported(tmp_path):
    assert describe_version_change(tmp_path, SPEC) is None  # no run.json
    write_run_json(tmp_path, SPEC, device="cpu", threads=2)
    assert describe_version_change(tmp_path, SPEC) is None
    line = describe_version_change(tmp_path, replace(SPEC, version=SPEC.version + 1))
    assert f"version {SPEC.version} of navigation-2d, and this is" in line and "\n" not in line


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"env": "ant"}', '{"env": {}}'])
def test_run_without_a_version_is_accepted(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert describe_version_change(tmp_path, SPEC) is None


def test_resume_is_recorded_and_reports_other_versions(tmp_path, monkeypatch):
    write_run_json(tmp_path, SPEC, device="cpu", threads=2)
    assert write_run_json(tmp_path, SPEC, device="cpu", threads=2) == []
    monkeypatch.setattr(provenance, "_find_version", lambda package: "0.0.1")
    differences = write_run_json(tmp_path, SPEC, device="cpu", threads=1)
    assert len(differences) == 4 and "numpy: " in differences[-1]  # threads void nothing
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["threads"] == 2 and [r["threads"] for r in record["resumed"]] == [2, 1]


def test_resume_with_other_sources_reports_both_commits(tmp_path, monkeypatch):
    for revision, lines in (
        ("a" * 40, []),
        ("a" * 40, []),
        ("a" * 40 + "-dirty", [f"git: {'a' * 40} at the start, {'a' * 40}-dirty now"]),
        (None, [f"git: {'a' * 40} at the start, None now"]),
    ):
        monkeypatch.setattr(provenance, "_read_git_revision", lambda revision=revision: revision)
        assert write_run_json(tmp_path, SPEC, device="cpu", threads=2) == lines


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"resumed": 3}', '{"resumed": []}'])
def test_foreign_run_json_is_refused_and_unchanged(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match="run.json is not what metarl wrote"):
        write_run_json(tmp_path, SPEC, device="cpu", threads=2)
    assert (tmp_path / "run.json").read_text() == text


def test_revision_is_that_of_these_sources_or_none():
    revision = provenance._read_git_revision()
    if not (Path(provenance.__file__).parents[2] / ".git").exists():
        assert revision is None
    assert revision is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision)
