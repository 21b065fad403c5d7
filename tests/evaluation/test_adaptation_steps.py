"""Which layers an adaptation moves, on adaptations whose answer is known."""

import numpy as np
import pytest
import torch

from metarl.core.rollout import Rollout
from metarl.core.tasks import Variable
from metarl.envs.registry import make
from metarl.evaluation.adaptation_steps import (
    compare_layers,
    compare_pairs,
    cosine_similarity,
    measure_steps,
)
from metarl.functional.params import repeat
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.sampling.sampler import Collector, Key

SMALL = MamlConfig(hidden_sizes=(8,), initial_log_std=-0.5)


def make_learner(config=SMALL, **settings):
    return Maml(config, 2, 2, seed=0, **settings)


class MovesOneLayer(Maml):
    """Adapts by adding the task's number to one layer, without looking at the rollout."""

    layer, amount = "bias1", 0.0

    def adapt(self, context, rollout, rngs):
        amount = self.amount.view(-1, *[1] * self.params[self.layer].dim())
        return self._context(
            context.params | {self.layer: context.params[self.layer] + amount}, batches=(None,)
        )


def measure(learner, tasks, num_adaptations=1):
    env, options = make("navigation-2d", 1), {"num_episodes": 2, "key": Key(0, "explain", 0)}
    return measure_steps(env, learner, tasks, num_adaptations=num_adaptations, **options)


@pytest.mark.parametrize("layer", ["weight0", "bias1", "log_std"])
def test_only_the_layer_that_moved_is_reported(layer):
    learner = MovesOneLayer(SMALL, 2, 2, seed=0)
    learner.params["bias1"] = torch.tensor([0.3, -0.4])
    learner.layer, learner.amount = layer, torch.tensor([0.1, -0.2, 0.3])
    tree = measure(learner, np.zeros((3, 2)))
    start, count = learner.params[layer].norm(), learner.params[layer].numel()
    shifts = learner.amount.abs().double() * count**0.5
    for entry in tree["layers"]:
        change, relative = entry["change"], entry["relative_change"]
        if entry["name"] != layer:
            assert change == {"mean": 0.0, "std": 0.0} and entry["kl"]["mean"] == 0.0
            continue
        assert change["mean"] == pytest.approx(float(shifts.mean()), rel=1e-5)
        assert change["std"] == pytest.approx(float(shifts.std()), rel=1e-5)
        assert relative["mean"] == pytest.approx(float(shifts.mean() / start), rel=1e-5)
        assert entry["shape"] == list(learner.params[layer].shape)
        assert entry["kl"] == tree["kl"] and entry["kl"]["mean"] > 1e-3
    assert tree["sentences"][0].startswith(f"{layer} moved most")
    assert tree["sentences"][1].startswith(f"{layer} changed the policy most")


def test_layer_that_starts_at_zero_is_named_by_its_change():
    learner = MovesOneLayer(SMALL, 2, 2, seed=0)
    learner.amount = torch.tensor([0.1, 0.4])  # of the two biases, which are zero
    assert (
        measure(learner, np.zeros((2, 2)))["sentences"][0] == "bias1 moved most, by 0.354 from zero"
    )
    learner.amount = torch.zeros(2)
    assert measure(learner, np.zeros((2, 2)))["sentences"] == []


def test_kl_of_a_shifted_mean_is_that_of_the_gaussians():
    learner = MovesOneLayer(SMALL, 2, 2, seed=0)
    learner.amount = torch.tensor([0.1, 0.4])
    (bias,) = (e for e in measure(learner, np.zeros((2, 2)))["layers"] if e["name"] == "bias1")
    # both of the two means move by d: KL = 2 d^2 / (2 sigma^2), the same in every state
    expected = learner.amount.double().square() / np.exp(-1.0)
    assert bias["kl"]["mean"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert bias["kl"]["std"] == pytest.approx(float(expected.std()), rel=1e-4)
    assert bias["relative_change"] == {"mean": None, "std": None}  # the bias was zero


def test_steps_of_opposite_tasks_have_cosine_minus_one():
    learner = MovesOneLayer(SMALL, 2, 2, seed=0)
    learner.layer, learner.amount = "weight0", torch.tensor([0.1, -0.2, 0.3, -0.1])
    tree = measure(learner, np.array([[1.0, 0.0], [-1.0, 0.0]] * 2))
    signs = learner.amount.sign().double()
    np.testing.assert_allclose(tree["similarity"], torch.outer(signs, signs), atol=1e-5)
    assert tree["pairs"]["similar"] == pytest.approx(1.0)
    assert tree["pairs"]["different"] == pytest.approx(-1.0)
    assert tree["pairs"]["all"] == pytest.approx(-1.0 / 3.0)


def test_gradient_steps_are_those_of_the_learner():
    learner, tasks = make_learner(), np.array([[0.4, 0.1], [-0.4, 0.2], [0.1, -0.5]])
    tree = measure(learner, tasks, num_adaptations=2)
    env, key = make("navigation-2d", 1), Key(0, "explain", 0)
    _, context = Collector(env).trial(learner, tasks, 2, 2, key)
    steps = []
    for entry in tree["layers"]:
        change = (context.params[entry["name"]] - learner.params[entry["name"]]).flatten(1)
        steps.append(change)
        assert entry["change"]["mean"] == pytest.approx(float(change.norm(dim=1).mean()), rel=1e-5)
    expected = torch.nn.functional.cosine_similarity(
        torch.cat(steps, 1)[:, None], torch.cat(steps, 1)[None], dim=2
    )
    np.testing.assert_allclose(tree["similarity"], expected, atol=1e-5)


def test_kl_counts_valid_states_only():
    learner = make_learner(SMALL)
    before = repeat(learner.params, 1)
    after = {**before, "weight0": before["weight0"] + 0.3}
    obs = torch.randn(1, 1, 6, 2)
    valid = torch.tensor([[[True, True, True, False, False, False]]])
    zero, flag = torch.zeros(1, 1, 6), torch.zeros(1, 1, dtype=torch.bool)
    part = {"action": obs, "log_prob": zero, "reward": zero}
    rest = {"terminated": flag, "truncated": flag, "last_obs": obs[:, :, 0]}
    short = {n: v[:, :, :3] for n, v in part.items()}
    whole = Rollout(obs=obs, valid=valid, **part, **rest)
    cut = Rollout(obs=obs[:, :, :3], valid=valid[:, :, :3], **short, **rest)
    kl = learner.policy_kl(before, after, whole)
    assert float(kl) == pytest.approx(float(learner.policy_kl(before, after, cut)), rel=1e-6)
    obs[:, :, :3] += 1.0
    assert float(learner.policy_kl(before, after, whole)) != pytest.approx(float(kl), rel=1e-3)


def test_layers_mix_parameters_of_two_contexts():
    learner = make_learner()
    before = repeat(learner.params, 2)
    after = {name: value + 0.1 for name, value in before.items()}
    obs, flag = torch.randn(2, 3, 5, 2), torch.zeros(2, 3, dtype=torch.bool)
    zero = torch.zeros(2, 3, 5)
    rollout = Rollout(obs, obs, zero, zero, zero == 0, flag, flag, obs[:, :, 0])
    tree = compare_layers(learner, before, after, rollout)
    for entry in tree["layers"]:
        mixed = {**before, entry["name"]: after[entry["name"]]}
        expected = float(learner.policy_kl(before, mixed, rollout).double().mean())
        assert entry["kl"]["mean"] == pytest.approx(expected) and expected > 0.0
    assert tree["kl"]["mean"] > max(entry["kl"]["mean"] for entry in tree["layers"])


def test_step_of_length_zero_has_no_cosine():
    similarity = cosine_similarity(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    assert similarity[0, 2] == 0.0 and np.isnan(similarity[1]).all()
    pairs = compare_pairs(similarity, np.array([[0.0], [1.0], [2.0]]), ())
    assert pairs == {"all": 0.0, "similar": None, "different": None}


def test_angles_are_compared_around_the_circle():
    angles = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
    steps = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    variable = Variable("angle", "rad", 0.0, 2.0 * np.pi)
    pairs = compare_pairs(cosine_similarity(steps), angles[:, None], (variable,))
    # the quarter of the 66 pairs that is nearest ends among those 60 degrees apart: 12 of 30
    # degrees and 12 of 60; the farthest has 12 of 150 degrees and 6 of 180
    thirty, sixty = np.cos(np.pi / 6), 0.5
    assert pairs["similar"] == pytest.approx((12 * thirty + 12 * sixty) / 24)
    assert pairs["different"] == pytest.approx((-12 * thirty - 6) / 18)
