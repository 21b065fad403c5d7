"""What is refused with another engine for the physics."""

import sys

import pytest
from commands import is_one_line

from metarl.cli import train
from metarl.runs.provenance import _select_fixed_facts


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--env", "navigation-2d"], "navigation-2d is no robot of MuJoCo; leave the flag out"),
        (["--algo", "sb3-ppo"], "--algo sb3-ppo: it collects its own experience"),
        (["--sampler.slices", "4"], "--sampler.slices 4: Warp steps all tasks at once"),
    ],
)
def test_what_has_no_other_physics_is_one_line(arguments, text, tmp_path, capsys):
    words = ["--env", "half-cheetah-dir", *arguments, "--sampler.physics", "warp"]
    assert train.main([*words, "--run-dir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and text in err
    assert not (tmp_path / "run").exists()


def test_missing_package_is_named_with_exit_code_6(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "warp", None)
    words = ["--env", "half-cheetah-dir", "--sampler.physics", "warp"]
    assert train.main([*words, "--run-dir", str(tmp_path / "run")]) == 6
    err = capsys.readouterr().err
    assert is_one_line(err) and "warp is not installed; pip install 'metarl-robots[warp]'" in err
    assert not (tmp_path / "run").exists()


def test_runs_of_older_versions_had_the_physics_of_mujoco():
    facts = {"git": "", "device": "cpu", "processor": "", "versions": {}}
    assert _select_fixed_facts(facts)["physics"] == "mujoco"
    other = {**facts, "physics": "mujoco-warp 4.0.0"}
    assert _select_fixed_facts(other) != _select_fixed_facts(facts)
