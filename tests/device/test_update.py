"""An update on a GPU equals that on a CPU, for every learner.

In float64, from the same parameters and rollouts. A GPU adds in another order, and takes all tasks
or trials at once, so the results differ by rounding: 1e-16, amplified by conjugate
gradients and by Adam's division by gradients as small as its eps of 1e-5. TOLERANCE is above both.
"""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from played_trials import ACTIONS, OBS, adapt, play
from torch import nn

from metarl.functional import advantages
from metarl.functional.linear_baseline import fit_predict
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.networks.module_network import ModuleNetwork

TOLERANCE = 1e-9
"""Of the largest change that the update makes to a tensor (5e-13 on the simulated GPU)."""

# each iteration of conjugate gradients amplifies the rounding: 10 of them by up to 1e8 (dice)
MAML = MamlConfig(hidden_sizes=(5, 4), cg_iterations=4)
MAML_CASES = {
    "lvc": MAML,
    "dice": replace(MAML, surrogate="dice", curvature_fraction=0.5),
    "loglik": replace(MAML, surrogate="loglik"),
    "first order": replace(MAML, first_order=True),
    "all states": replace(MAML, curvature_fraction=1.0),
    "normalized": replace(MAML, normalize_obs=True),
    "elu": replace(MAML, activation="elu"),
    "layer norm": replace(MAML, layer_norm=True),
}

RL2 = Rl2Config(memory_size=8, hidden_size=4, epochs=1, minibatches=2)
RL2_CASES = {
    ", ".join(choice): replace(RL2, memory=choice[0], value_memory=choice[1], actor=choice[2])
    for choice in itertools.product(MEMORIES, ("shared", "own"), ("mlp", "hypernetwork"))
}
RL2_CASES["entropy, target-kl"] = replace(RL2, entropy_weight=0.01, target_kl=0.01)
RL2_CASES["truncation"] = replace(RL2, truncation=3)
RL2_CASES["window"] = replace(RL2, memory="transformer", attention_window=3)


@pytest.fixture
def firm_baseline(monkeypatch):
    """A baseline whose fit to eight steps does not amplify rounding by 1e5."""
    monkeypatch.setattr(advantages, "fit_predict", partial(fit_predict, ridge=0.1))


def maml_pair(gpu, config, **options):
    """A learner on the CPU and one on the GPU, in float64."""
    pair = []
    for device in ("cpu", gpu.device):
        learner = Maml(config, OBS, ACTIONS, seed=0, device=device, **options)
        learner.params = {n: v.double() for n, v in learner.params.items()}
        pair.append(learner)
    return pair


def rl2_pair(gpu, config, **options):
    return [
        Rl2(config, OBS, ACTIONS, seed=0, device=device, **options)
        for device in ("cpu", gpu.device)
    ]


def assert_same_updates(pair, updates=2, **options):
    """Updates both learners from the same states, and compares the results."""
    for number in range(updates):
        reference, learner = pair
        before = reference.state_dict()
        learner.load_state_dict(before)
        rollouts = play(reference, seed=number, **options)
        expected, found = (
            each.update(adapt(each, rollouts), rollouts, None) for each in (reference, learner)
        )
        after = reference.state_dict()
        for name, value in learner.state_dict().items():
            assert value.device.type == "cpu" and value.dtype == after[name].dtype
            change = float((after[name] - before[name]).abs().max())
            error = float((value - after[name]).abs().max())
            assert error <= TOLERANCE * max(change, 1e-4), (name, error, change)
        is_policy_changed = any(
            not torch.equal(after[name], before[name]) for name in before if "policy/" in name
        )
        assert is_policy_changed or number == 0  # the first update may only measure a scale
        for name in expected.keys() - {"update/ratio_error"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("case", MAML_CASES)
def test_maml_update_equals_the_cpu_update(case, gpu, double, firm_baseline):
    assert_same_updates(maml_pair(gpu, MAML_CASES[case]))


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_chunk_of_tasks_does_not_change_a_gpu_update(task_chunk, gpu, double, firm_baseline):
    pair = maml_pair(gpu, MAML)
    pair[1].config = replace(MAML, task_chunk=task_chunk)
    assert_same_updates(pair)


def test_maml_update_of_any_network_equals_the_cpu_update(gpu, double, firm_baseline):
    module = nn.Sequential(nn.Linear(OBS, 6), nn.SiLU(), nn.Linear(6, ACTIONS, bias=False))
    assert_same_updates(maml_pair(gpu, MAML, network=ModuleNetwork(module, OBS, ACTIONS)))


def test_maml_update_of_two_steps_equals_the_cpu_update(gpu, double, firm_baseline):
    pair = maml_pair(gpu, MAML)
    assert_same_updates(pair, updates=1, num_adaptations=2)


def test_discrete_maml_update_equals_the_cpu_update(gpu, double, firm_baseline):
    assert_same_updates(maml_pair(gpu, MAML, discrete=True))


@pytest.mark.parametrize("case", RL2_CASES)
def test_rl2_update_equals_the_cpu_update(case, gpu, double):
    assert_same_updates(rl2_pair(gpu, RL2_CASES[case]))


@pytest.mark.parametrize("memory", MEMORIES)
def test_rl2_update_of_whole_episodes_equals_the_cpu_update(memory, gpu, double):
    assert_same_updates(rl2_pair(gpu, replace(RL2, memory=memory)), updates=1, ragged=False)


def test_discrete_rl2_update_equals_the_cpu_update(gpu, double):
    assert_same_updates(rl2_pair(gpu, RL2, discrete=True))


@pytest.mark.parametrize("memory", MEMORIES)
def test_policy_that_acted_on_the_cpu_learns_on_the_gpu(memory, gpu):
    # float32, as in training: the check of the ratio bounds what the GPU may compute differently
    learner = Rl2(replace(RL2, memory=memory), OBS, ACTIONS, seed=0, device=gpu.device)
    for number in range(3):
        rollouts = play(learner, seed=number)
        metrics = learner.update(adapt(learner, rollouts), rollouts, None)
        assert metrics["update/ratio_error"] < 1e-4


def test_baseline_on_the_gpu_equals_that_on_the_cpu(gpu):
    draw = torch.Generator().manual_seed(0)
    obs, target = torch.randn(3, 5, 20, 4, generator=draw), torch.randn(3, 5, 20, generator=draw)
    valid = torch.rand(3, 5, 20, generator=draw) < 0.8
    found = fit_predict(obs.to(gpu.device), target.to(gpu.device), valid.to(gpu.device))
    torch.testing.assert_close(found.cpu(), fit_predict(obs, target, valid), rtol=0, atol=1e-9)
