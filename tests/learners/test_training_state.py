"""The state that learners save: names of its entries, and the copy that acts beside a GPU."""

import copy

import pytest
import torch
from sign_tasks import SignBatch, collect

from metarl.envs.registry import make
from metarl.learners import adam
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2

ENTRIES = {
    "bmaml": ({}, ["steps/policy", "lr/policy"], ["policy/log_std"]),
    "gp": (
        {},
        ["steps/policy", "steps/kernel", "lr/policy", "lr/kernel"],
        ["policy/log_std", "kernel/log_noise"],
    ),
    "metric": (
        {},
        ["steps/policy", "steps/encoder", "lr/policy", "lr/encoder"],
        ["policy/log_std", "encoder/0.0.weight"],
    ),
    "rl2": ({}, ["steps", "lr"], ["log_std", "actor.0.weight"]),
    "teacher-student": (
        {"student_updates": 1},
        ["steps/teacher", "steps/student", "steps/fine-tuning", "lr", "lr/fine-tuning"],
        ["log_std", "guess.0.weight", "fine-tuning/guess.0.weight"],
    ),
    "varibad": ({}, ["steps/policy", "steps/encoder", "lr"], ["log_std", "belief.weight"]),
}
"""Settings, the entries adam/... of the optimisers, and of the moments of some parameters."""


@pytest.mark.parametrize("algo", ENTRIES)
def test_entries_of_optimisers_keep_their_names(algo):
    settings, expected, parameters = ENTRIES[algo]
    env, algorithm = make("navigation-2d", 1), ALGORITHMS[algo]
    state = build_learner(algorithm, algorithm.config(**settings), env.spec, seed=0).state_dict()
    names = {name.removeprefix("adam/") for name in state if name.startswith("adam/")}
    assert {name for name in names if not name.startswith("exp_avg")} == set(expected)
    for name in parameters:
        assert {f"exp_avg/{name}", f"exp_avg_sq/{name}"} <= names
        assert name in state or f"policy/{name.removeprefix('fine-tuning/')}" in state


@pytest.mark.parametrize("algo", ENTRIES)
def test_learner_on_a_gpu_keeps_full_float32(algo, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", lambda network, device: network)  # without a GPU
    monkeypatch.setattr(adam, "begin", lambda *_: None)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    env, algorithm = make("navigation-2d", 1), ALGORITHMS[algo]
    options = {"seed": 0, "device": torch.device("cuda", 0)}
    build_learner(algorithm, algorithm.config(), env.spec, **options)
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("memory", ["gru", "transformer"])
@pytest.mark.parametrize("value_memory", ["shared", "own"])
def test_copy_that_acts_follows_updates_and_loads(memory, value_memory):
    config = Rl2Config(memory_size=8, hidden_size=8, memory=memory, value_memory=value_memory)
    learner, other = (Rl2(config, 2, 1, seed=seed) for seed in (0, 1))
    for each in (learner, other):
        each._state.acting = copy.deepcopy(each.policy)  # as beside a GPU
    rollouts, context = collect(learner, SignBatch())
    learner.update(context, rollouts, None)
    other.load_state_dict(learner.state_dict())
    for each in (learner, other):
        acting = dict(each._state.acting.named_parameters())
        assert all(torch.equal(acting[n], v) for n, v in learner.policy.named_parameters())
        torch.testing.assert_close(each._state.scales, learner._state.scales, rtol=0, atol=0)
        assert float(each._state.scales["obs"][0].abs().min()) > 0.0
