import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from metarl.core.errors import CheckpointError, ResourceError, RunExists
from metarl.core.files import write_atomically
from metarl.core.tasks import Variable
from metarl.envs.registry import ENVIRONMENTS, make
from metarl.runs import folder as run_folder
from metarl.runs import provenance
from metarl.runs.folder import choose_run_dir, create
from metarl.runs.provenance import describe_version_change, write_run_json

SPEC = make("navigation-2d").spec


def test_the_default_name_says_environment_learner_and_seed_and_is_new(tmp_path):
    first = choose_run_dir("half-cheetah-dir/rllib", "maml-trpo", 3, root=tmp_path)
    assert re.fullmatch(r"half-cheetah-dir-rllib_maml-trpo_s3_\d{8}-\d{6}", first.name)
    names = set()
    for _ in range(5):
        path = create(choose_run_dir("a", "maml-trpo", 0, root=tmp_path))
        names.add(path.name)
    assert len(names) == 5


@pytest.mark.parametrize("env", ["my.module:make", "../../etc", "/", "a b\n", "..", ""])
def test_no_name_of_an_environment_leaves_the_folder_of_runs(tmp_path, env):
    path = choose_run_dir(env, "maml-trpo", 0, root=tmp_path)
    assert path.parent == tmp_path and re.fullmatch(r"\w[\w.+-]*", path.name)


def test_a_run_folder_that_exists_is_refused_and_stays(tmp_path):
    run = create(tmp_path / "runs" / "x")
    (run / "metrics.jsonl").write_text("mine")
    with pytest.raises(RunExists, match=f"{run} exists.*--resume {run}") as caught:
        create(run)
    assert caught.value.exit_code == 2 and (run / "metrics.jsonl").read_text() == "mine"


def test_a_folder_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="x cannot be made: Not a directory"):
        create(tmp_path / "file" / "x")


def test_run_json_holds_what_the_run_was_made_with(tmp_path):
    assert write_run_json(tmp_path, SPEC, device="cpu", threads=2) == []
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["versions"]["torch"] == metadata.version("torch")
    assert set(record["versions"]) == {"metarl", "python", "torch", "mujoco", "gymnasium", "numpy"}
    assert all(record["versions"].values()) and record["processor"]
    assert (record["device"], record["threads"], record["resumed"]) == ("cpu", 2, [])
    assert "bit for bit" in record["contract"]


def test_run_json_defines_the_environment_in_strict_json(tmp_path):
    odd = Variable("mass", "kg", np.float32(0.5), np.inf, bands=((0.5, 1.0), (2.0, np.inf)))
    tasks = SimpleNamespace(variables=(odd,), held_out=np.bool_(True))  # of a plug-in: no twin
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


def test_the_ranges_of_training_and_test_tasks_are_both_recorded(tmp_path):
    spec = ENVIRONMENTS["walker2d-params"].spec("walker2d-params")
    write_run_json(tmp_path, spec, device="cpu", threads=2)
    tasks = json.loads((tmp_path / "run.json").read_text())["env"]["tasks"]
    for kind, distribution in (("train", spec.tasks), ("test", spec.tasks.test)):
        found = [(v["name"], v["unit"], v["low"], v["high"]) for v in tasks[kind]]
        assert found == [(v.name, v.unit, v.low, v.high) for v in distribution.variables]


def test_another_version_of_the_environment_is_told(tmp_path):
    assert describe_version_change(tmp_path, SPEC) is None  # no run.json
    write_run_json(tmp_path, SPEC, device="cpu", threads=2)
    assert describe_version_change(tmp_path, SPEC) is None
    line = describe_version_change(tmp_path, replace(SPEC, version=SPEC.version + 1))
    assert f"version {SPEC.version} of navigation-2d, and this is" in line and "\n" not in line


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"env": "ant"}', '{"env": {}}'])
def test_a_run_that_does_not_tell_its_version_is_accepted(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert describe_version_change(tmp_path, SPEC) is None


def test_a_resume_is_added_and_tells_what_voids_the_contract(tmp_path, monkeypatch):
    write_run_json(tmp_path, SPEC, device="cpu", threads=2)
    assert write_run_json(tmp_path, SPEC, device="cpu", threads=2) == []
    monkeypatch.setattr(provenance, "_version", lambda package: "0.0.1")
    differences = write_run_json(tmp_path, SPEC, device="cpu", threads=1)
    assert len(differences) == 4 and "numpy: " in differences[-1]  # threads void nothing
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["threads"] == 2 and [r["threads"] for r in record["resumed"]] == [2, 1]


def test_a_resume_with_other_sources_tells_both_commits(tmp_path, monkeypatch):
    for revision, lines in (
        ("a" * 40, []),
        ("a" * 40, []),
        ("a" * 40 + "-dirty", [f"git: {'a' * 40} at the start, {'a' * 40}-dirty now"]),
        (None, [f"git: {'a' * 40} at the start, None now"]),
    ):
        monkeypatch.setattr(provenance, "_git_revision", lambda revision=revision: revision)
        assert write_run_json(tmp_path, SPEC, device="cpu", threads=2) == lines


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"resumed": 3}', '{"resumed": []}'])
def test_a_foreign_run_json_is_refused_and_stays(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match="run.json is not what metarl wrote"):
        write_run_json(tmp_path, SPEC, device="cpu", threads=2)
    assert (tmp_path / "run.json").read_text() == text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def no_space(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_revision_is_that_of_these_sources_or_none():
    revision = provenance._git_revision()
    if not (Path(run_folder.__file__).parents[2] / ".git").exists():
        assert revision is None
    assert revision is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision)
