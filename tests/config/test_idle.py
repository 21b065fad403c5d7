"""Settings that were chosen and have no effect beside the others are refused."""

from dataclasses import asdict

import pytest
import torch

import metarl
from metarl.config.idle import list_needs
from metarl.config.schema import TrainConfig, build_config, from_yaml, parse, to_yaml
from metarl.core.errors import ConfigError
from metarl.core.trees import flatten
from metarl.learners.registry import ALGORITHMS
from metarl.suites.suite import read_suite
from metarl.sweeps.sweep import read_sweep

IDLE = [
    ("--learner.clip 0.2", "learner.clip = 0.2: has no effect with --learner.outer trpo"),
    ("--learner.clip 0.2", "it needs --learner.outer ppo"),
    ("--algo promp --learner.max-kl 0.1", "it needs --learner.outer trpo"),
    ("--algo maml-ppo --learner.inner-kl-weight 1", "it needs --learner.inner-kl other than 0"),
    ("--algo reptile --learner.first-order", "it needs --learner.outer trpo or ppo"),
    ("--algo anil --learner.encoder-size 8", "it needs --learner.adapts latent"),
    ("--algo grbal --learner.elite-fraction 0.5", "it needs --learner.planner cem"),
    ("--algo metric --learner.repulsion 0.5", "it needs --learner.loss siamese"),
    ("--algo rl2 --learner.credit episode --learner.falls end", "it needs --learner.credit trial"),
    ("--algo rl2 --learner.attention-window 5", "must be 0 with mingru"),
    ("--trust-env", "--trust-env: has no effect without --resume or --init-from"),
    ("--curriculum.start 0.5", "has no effect without --curriculum.success"),
    ("--sampler.workers 2", "it needs --sampler.backend ray"),
    ("--algo sb3-ppo --sampler.slices 3", "has no effect with --algo sb3-ppo"),
    ("--algo sb3-ppo --learner.mode scratch --sampler.train-tasks 9", "mode other than scratch"),
    ("--algo sb3-ppo --learner.mode scratch --trainer.evaluate-tasks 9", "other than scratch"),
]
USED = [
    "--algo maml-ppo --learner.clip 0.2",
    "--learner.clip 0.3",  # the default
    "--algo promp --learner.outer trpo",  # others have an effect no longer, and were not chosen
    "--algo sb3-ppo --learner.mode scratch --trainer.evaluate-tasks 0",
    "--curriculum.success 9 --curriculum.start 0.5",
]


def read(text, env="ant-dir", **options):
    return parse(["--env", env, *text.split()], **options)


@pytest.mark.parametrize(("flags", "message"), IDLE)
def test_flag_without_an_effect_is_refused(flags, message):
    with pytest.raises(ConfigError) as caught:
        read(flags)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("flags", USED)
def test_flag_with_an_effect_or_the_default_is_taken(flags):
    read(flags)


def test_setting_without_an_effect_is_refused_in_python():
    with pytest.raises(ConfigError, match=r"^learner.clip = 0.2: has no effect with learner.outer"):
        build_config("ant-dir", settings={"learner": {"clip": 0.2}})


def test_preset_and_recorded_settings_may_have_no_effect(tmp_path):
    (tmp_path / "maml-trpo").mkdir()
    (tmp_path / "maml-trpo" / "ant-dir.yaml").write_text("learner: {clip: 0.2}\n")
    config = read("--learner.inner-lr 0.3", presets=tmp_path)
    assert config.learner.clip == 0.2
    recorded = tmp_path / "config.yaml"
    recorded.write_text(to_yaml(config))
    assert from_yaml(recorded) == config
    assert read(f"--config {recorded}").learner == config.learner
    part = tmp_path / "part.yaml"
    part.write_text("learner: {clip: 0.2}\n")
    with pytest.raises(ConfigError, match=f"^{part}: learner.clip = 0.2: has no effect"):
        read(f"--config {part}")
    read(f"--config {part} --learner.outer ppo")
    (tmp_path / "run.json").touch()  # an older version's, which has fewer settings
    read(f"--config {part}")


def test_suite_may_share_settings_that_a_run_does_not_use(tmp_path):
    path = tmp_path / "s.yaml"
    text = "{}runs: [{{env: ant-dir, iterations: 3{}}}]\n"
    path.write_text(text.format("settings: {learner: {clip: 0.2}}\n", ""))
    assert read_suite(path).runs[0].config.learner.clip == 0.2
    path.write_text(text.format("", ", learner: {clip: 0.2}"))
    with pytest.raises(ConfigError, match="run 1 .*learner.clip = 0.2: has no effect"):
        read_suite(path)


def test_sweep_may_search_settings_of_some_trials(tmp_path):
    path = tmp_path / "s.yaml"
    text = "env: ant-dir\nsearch: {{learner.clip: {{low: 0.1, high: 0.2}}{}}}\n"
    path.write_text(text.format(", learner.outer: {choices: [trpo, ppo]}"))
    sweep = read_sweep(path)
    assert sweep.config({"learner.clip": 0.15, "learner.outer": "trpo"}).learner.clip == 0.15
    path.write_text(text.format(""))
    with pytest.raises(ConfigError, match="search.learner.clip = 0.1: has no effect with learner"):
        read_sweep(path)


def test_needs_name_settings_that_exist():
    trees = [TrainConfig(algo=name, learner=each.default()) for name, each in ALGORITHMS.items()]
    known = {name for tree in trees for name in flatten(asdict(tree))}
    for tree in trees:
        for need in list_needs(tree):
            assert {*need.names, *need.others} <= known, need
            assert bool(need.values) != bool(need.besides), need


@pytest.mark.parametrize(
    ("algo", "chosen", "idle"),
    [
        ("maml-trpo", {}, {"clip": 0.05, "outer_epochs": 1, "inner_kl": 0.5, "context_size": 3}),
        ("maml-ppo", {}, {"max_kl": 0.5, "cg_damping": 0.9, "encoder_size": 3}),
        ("meta-lstm", {}, {"later_lr": 0.1, "later_decay": 0.2}),
        ("rl2", {"credit": "episode"}, {"falls": "end"}),
        ("metric", {"loss": "siamese"}, {"temperature": 0.3}),
    ],
)
def test_setting_that_is_refused_changes_no_bit(algo, chosen, idle, monkeypatch, tmp_path):
    monkeypatch.setattr("metarl.config.schema.refuse_idle", lambda *_, **__: None)
    sampler = {"num_tasks": 2, "num_episodes": 2, "num_adaptations": 2}
    states = []
    for name, learner in (("without", chosen), ("with", chosen | idle)):
        settings = {"iterations": 1, "sampler": sampler, "learner": learner, "evaluate": False}
        with metarl.train("navigation-2d", algo, run_dir=tmp_path / name, **settings) as policy:
            states.append(policy.learner.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
