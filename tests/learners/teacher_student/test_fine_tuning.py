"""The third phase: PPO on the student, through its memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from teacher_bench import CONFIG, build, collect, doubled, learn

from metarl.functional.advantages import gae
from metarl.functional.running_moments import normalize
from metarl.learners.teacher_student.fine_tuning import FineTuning
from metarl.sampling.sequences import Sequences

TUNED = replace(CONFIG, student_updates=1)


def problem(config=TUNED, *, double=False):
    """A student before its first fine-tuning, and its trials, of which some end early."""
    learner = build(config)
    learn(learner, range(2))
    rollouts, *_ = collect(learner, 2, eventful=True, num_tasks=4)
    network, whole = learner.network, learner._state.adams["fine-tuning"]
    steps, inputs = Sequences.of(rollouts), learner._inputs(Sequences.of(rollouts))
    if double:
        network.double()
        rollouts, steps, inputs = [doubled(r) for r in rollouts], doubled(steps), inputs.double()
    tuning = FineTuning(network, learner._distribution, whole, config)
    latent = tuning.guess(inputs)
    moments = learner._state.moments["obs"], learner._state.moments["value"]
    return learner, rollouts, tuning, (rollouts, steps, inputs, latent, *moments)


def test_advantages_equal_a_loop_over_episodes():
    learner, rollouts, tuning, arguments = problem()
    _, steps, inputs, latent, *moments = arguments
    tuning.check(steps, inputs, latent)
    assert any(bool(r.terminated.any()) for r in rollouts)
    assert any(bool(r.truncated.any()) for r in rollouts)
    trials, merged, _ = tuning.estimate(*arguments)
    scale, (mean, factor) = moments[0].scale(), moments[1].scale()
    advantages, targets = [], []
    for row, (n, e) in enumerate(np.ndindex(4, 2)):
        start = 0
        for rollout in rollouts:
            length, end = int(rollout.valid[n, e].sum()), rollout.truncated[n, e]
            here = slice(start, start + length)
            start += length + int(end)
            known = torch.cat([latent[here, row], latent[start - 1 : start, row]])
            obs = torch.cat([rollout.obs[n, e, :length], rollout.last_obs[n, e][None]])
            with torch.no_grad():
                value = learner.network.value(normalize(obs, scale), known) / factor + mean
            after = 0.0 * value[-1] if rollout.terminated[n, e] else value[-1]
            valid = torch.ones(length, dtype=torch.bool)
            own = rollout.reward[n, e, :length], value[:-1], after, valid
            advantages.append(gae(*own, TUNED.discount, TUNED.gae_lambda))
            targets.append(advantages[-1] + value[:-1])
    advantage, target = torch.cat(advantages), torch.cat(targets)
    expected = (advantage - advantage.mean()) / advantage.std(correction=0)
    found = trials.advantage.T[steps.valid.T]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    mean, factor = merged.scale()
    found = trials.target.T[steps.valid.T]
    torch.testing.assert_close(found, (target - mean) * factor, rtol=1e-4, atol=1e-5)


def test_gradient_through_the_memory_equals_finite_differences():
    config = replace(TUNED, minibatches=1, max_gradient=1e9)
    learner, _, tuning, arguments = problem(config, double=True)
    trials, *_ = tuning.estimate(*arguments)
    # away from ratio 1, where the clipped loss has a corner
    log_prob = trials.steps.log_prob - 0.05
    steps = replace(trials.steps, log_prob=log_prob)
    numbers = {n: vars(trials)[n].double() for n in ("advantage", "target")}
    trials = replace(trials, steps=steps, **numbers)
    network = learner.network

    @torch.no_grad()
    def loss():
        obs, params = trials.inputs[..., :2], network.distribution_params()
        latent = network.guess(network.memory.unroll(trials.inputs))
        output = network.output(obs, latent)
        ratio = (learner._distribution.log_prob(params, output, steps.action) - log_prob).exp()
        bounded = ratio.clamp(0.8, 1.2)
        gain = torch.minimum(ratio * trials.advantage, bounded * trials.advantage)
        error = (network.value(obs, latent) - trials.target).square()
        return float((0.5 * error - gain)[steps.valid].mean())

    weight, place, step = network.memory.embed.weight, (3, 1), 1e-6
    with torch.no_grad():
        weight[place] += step
        above = loss()
        weight[place] -= 2.0 * step
        below = loss()
        weight[place] += step
    whole = learner._state.adams["fine-tuning"]
    whole.param_groups[0]["lr"] = 0.0
    whole.state.clear()
    tuning.train(trials, [np.arange(trials.inputs.shape[1])])
    assert float(weight.grad[place]) == pytest.approx((above - below) / (2.0 * step), rel=1e-4)


def test_fine_tuning_raises_the_return_of_a_student():
    config = replace(TUNED, teacher_updates=10, student_updates=3, initial_log_std=-0.5, lr=5e-3)
    learner = build(config)
    rollouts, metrics = learn(learner, range(14), num_tasks=16)
    before = np.mean([float(r.returns().mean()) for r in rollouts])
    assert metrics["update/phase"] == 3.0
    rollouts, metrics = learn(learner, range(14, 60), num_tasks=16)
    after = np.mean([float(r.returns().mean()) for r in rollouts])
    assert learner.phase == "fine-tuning" and after > before + 0.5


def test_step_size_of_fine_tuning_is_kept():
    config = replace(TUNED, target_kl=1e-6)
    learner, other = build(config), build(config)
    learn(learner, range(3))
    found = [float(learner.state_dict()[n]) for n in ("adam/lr", "adam/lr/fine-tuning")]
    assert found == pytest.approx([3e-3 / 1.5**5] * 2)
    other.load_state_dict(learner.state_dict())
    for each in (learner, other):
        learn(each, range(3, 4))
    expected = learner.state_dict()
    assert all(torch.equal(value, expected[n]) for n, value in other.state_dict().items())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_fine_tuning_that_fails_midway_changes_nothing(error, monkeypatch):
    learner, clean = build(TUNED), build(TUNED)
    for each in (learner, clean):
        learn(each, range(3))
    before = learner.state_dict()
    rollouts, context, tasks = collect(learner, 3)
    step, calls = torch.optim.Adam.step, []

    def fail(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error("midway")
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(error, match="midway"):
        patch.setattr(torch.optim.Adam, "step", fail)
        learner.update(context, rollouts, tasks)
    after = learner.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    learn(learner, range(3, 4))
    learn(clean, range(3, 4))
    expected = clean.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in learner.state_dict().items())
