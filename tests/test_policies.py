"""Functions of the Python interface that take policies: loaded, by run folder, by address."""

from dataclasses import replace

import pytest

import metarl
from metarl.core.errors import CheckpointError, ConfigError
from metarl.evaluation.results import aggregate

SMALL = {
    "learner": {"hidden_sizes": [8]},
    "sampler": {"num_tasks": 2, "num_episodes": 2, "threads": 1},
    "trainer": {"evaluate_tasks": 0, "video": False, "logger": "none"},
    "device": "cpu",
    "iterations": 1,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policies") / "run"
    return metarl.train("navigation-2d", run_dir=path, **SMALL)


def test_evaluate_takes_several_seeds(policy, tmp_path):
    other = tmp_path / "other"
    metarl.train("navigation-2d", run_dir=other, seed=1, **SMALL).close()
    sizes = {"num_tasks": 3, "num_adaptations": 1}
    both = metarl.evaluate([policy, str(other)], **sizes)
    single = [metarl.evaluate(each, **sizes) for each in (policy, other)]
    assert both["seeds"] == [0, 1] and both["runs"] == [str(policy.path), str(other)]
    assert both["returns"] == aggregate(single)["returns"]
    with pytest.raises(ConfigError, match="seed 0 is also that of .*; two samples need two seeds"):
        metarl.evaluate([policy, policy.path])


TAKES_POLICIES = {
    "evaluate": (),
    "explain": (),
    "certify": (),
    "film": (),
    "report": (),
    "film_together": ("x.mp4",),
    "export": ("x.onnx",),
    "export_minari": ("./x",),
    "publish": ("x",),
    "push": ("me/x",),
}
"""Name of a function -> its arguments after the policy."""


@pytest.mark.parametrize("name", TAKES_POLICIES)
def test_functions_take_policies_in_one_way(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = getattr(metarl, name)
    with pytest.raises(ConfigError, match="= 3: must be a trained policy, its run folder or hf://"):
        function(3, *TAKES_POLICIES[name])
    with pytest.raises((CheckpointError, ConfigError), match="^no: there is no|^no is not a run"):
        function("no", *TAKES_POLICIES[name])
    with pytest.raises(ConfigError, match="hf://no: must be hf://ORG/NAME"):
        function("hf://no", *TAKES_POLICIES[name])
    assert list(tmp_path.iterdir()) == []


def test_load_refuses_what_is_no_run():
    with pytest.raises(ConfigError, match="run = 3: must be a run folder or hf://"):
        metarl.load(3)


def test_certify_takes_a_loaded_policy(policy, monkeypatch):
    monkeypatch.setattr("metarl.certification.certify.run", lambda order: order)
    order = metarl.certify(policy, oracles=[policy])
    assert order.source.path == policy.path and order.oracles == (policy.path,)
    with pytest.raises(ConfigError, match="env = 3: must be the name of an environment"):
        metarl.certify(policy, 3)


def test_publish_takes_a_loaded_policy(policy, tmp_path):
    by_path, loaded = metarl.publish(policy.path, tmp_path / "a"), metarl.load(policy.path)
    published = metarl.publish(loaded, tmp_path / "b")
    assert (published / "run.json").read_bytes() == (by_path / "run.json").read_bytes()
    assert metarl.push(loaded, "me/nav", to=tmp_path / "c") == str(tmp_path / "c")
    teacher = replace(loaded, is_teacher=True)
    with pytest.raises(ConfigError, match="run: is the teacher of .*; its run folder stands for"):
        metarl.publish(teacher, tmp_path / "d")


def test_report_takes_one_run_and_refuses_none(policy):
    assert metarl.report(str(policy.path)) == policy.path / "report.html"
    with pytest.raises(ConfigError, match="must be at least one run folder"):
        metarl.report([])
