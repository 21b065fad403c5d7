"""Teacher and student beyond the properties of all learners (learners/test_properties.py)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sign_tasks import SignBatch, signs
from teacher_bench import CONFIG, build, collect, doubled, learn

from metarl.core.errors import ConfigError
from metarl.functional.advantages import gae
from metarl.functional.running_moments import normalize
from metarl.learners.teacher_student import ppo
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.teacher_student.teacher_student import TeacherContext
from metarl.learners.trial_memory import TrialContext
from metarl.sampling.sampler import Collector, Key
from metarl.sampling.sequences import Sequences


def test_only_the_teacher_in_training_sees_the_task():
    learner = build()
    tasks = np.array([[-1.0], [1.0]])
    context = learner.begin_training(tasks, 2, ())
    assert isinstance(context, TeacherContext) and context.latent.shape == (2, 2, 3)
    assert not torch.equal(context.latent[0], context.latent[1])
    assert torch.equal(context.latent[:, 0], context.latent[:, 1])
    assert isinstance(learner.begin(2, 2, ()), TrialContext)
    learn(learner, range(1))
    assert learner.phase == "student"
    assert isinstance(learner.begin_training(tasks, 2, ()), TrialContext)


def test_evaluation_never_gives_the_tasks(monkeypatch):
    learner = build()
    monkeypatch.setattr(learner, "begin_training", None)
    collector = Collector(SignBatch())
    collector.trial(learner, signs(4), 1, 1, Key(0, "evaluate", 0))


def test_phases_change_only_their_own_parameters():
    learner = build(replace(CONFIG, student_updates=1))
    states = [learner.state_dict()]
    for iteration in range(3):
        learn(learner, range(iteration, iteration + 1))
        states.append(learner.state_dict())

    def changed(one, other):
        names = (name for name in one if name.startswith("policy/"))
        return {n.split("/")[1].split(".")[0] for n in names if not torch.equal(one[n], other[n])}

    assert changed(*states[:2]) == {"encoder", "actor", "critic", "log_std"}
    assert changed(*states[1:3]) == {"memory", "guess"}
    assert changed(*states[2:]) == {"memory", "guess", "actor", "critic", "log_std"}
    for part in ("obs", "value"):  # the teacher's inputs and values keep their scale
        assert torch.equal(states[1][f"{part}/mean"], states[2][f"{part}/mean"])


def test_student_learns_what_the_teacher_knows():
    config = replace(CONFIG, teacher_updates=30, student_lr=1e-2, initial_log_std=-0.5)
    learner = build(config)
    learn(learner, range(30), num_tasks=16)
    sighted = np.mean([float(r.returns().mean()) for r in collect(learner, 99)[0]])
    _, first = learn(learner, range(30, 31), num_tasks=16)
    rollouts, last = learn(learner, range(31, 70), num_tasks=16)
    assert last["update/phase"] == 2.0
    assert (
        last["kl"] < 0.5 * first["kl"]
        and last["update/latent_error"] < first["update/latent_error"]
    )
    # the first step cannot know the sign; the second episode can
    assert float(rollouts[1].returns().mean()) > 1.5 and sighted < 4.0


def test_batch_has_valid_steps_with_advantages_of_their_episodes():
    learner = build()
    rollouts, _, tasks = collect(learner, eventful=True, num_tasks=4)
    assert any(bool(r.terminated.any()) for r in rollouts)
    code = learner._encode(tasks)
    parts = learner.network, learner._distribution, learner._state.adams["teacher"]
    teacher = ppo.ConditionedPpo(*parts, CONFIG)
    known = learner._state.moments
    batch, codes, moments, _ = teacher.batch(
        rollouts, [code.unsqueeze(1)] * 2, known["obs"], known["value"]
    )
    scale = known["obs"].scale()
    network, place, advantages, targets = learner.network, 0, [], []
    for rollout in rollouts:
        for n, e in np.ndindex(4, 2):
            length = int(rollout.valid[n, e].sum())
            with torch.no_grad():
                latent = network.encoder(code[n])
                obs = torch.cat([rollout.obs[n, e, :length], rollout.last_obs[n, e][None]])
                value = network.value(normalize(obs, scale), latent.expand(length + 1, -1))
            after = 0.0 * value[-1] if rollout.terminated[n, e] else value[-1]
            valid = torch.ones(length, dtype=torch.bool)
            own = rollout.reward[n, e, :length], value[:-1], after, valid
            advantages.append(gae(*own, CONFIG.discount, CONFIG.gae_lambda))
            targets.append(advantages[-1] + value[:-1])
            here = slice(place, place + length)
            assert torch.equal(batch.action[here], rollout.action[n, e, :length])
            assert torch.equal(codes[here], code[n].expand(length, -1))
            place += length
    assert place == len(batch.obs)
    advantage, target = torch.cat(advantages), torch.cat(targets)
    expected = (advantage - advantage.mean()) / advantage.std(correction=0)
    torch.testing.assert_close(batch.advantage, expected, rtol=1e-4, atol=1e-5)
    assert float(moments.mean) == pytest.approx(float(target.mean()), rel=1e-5)


def test_gradient_of_the_teacher_equals_finite_differences():
    learner = build(replace(CONFIG, minibatches=1, max_gradient=1e9))
    rollouts, _, tasks = collect(learner)
    learner.network.double()
    code = learner._encode(tasks).double()
    parts = learner.network, learner._distribution, learner._state.adams["teacher"]
    teacher = ppo.ConditionedPpo(*parts, learner.config)
    rollouts = [doubled(rollout) for rollout in rollouts]
    moments = learner._state.moments["obs"], learner._state.moments["value"]
    batch, code, *_ = teacher.batch(rollouts, [code.unsqueeze(1)] * 2, *moments)
    batch = doubled(batch)
    # away from ratio 1, where the clipped loss has a corner
    batch = replace(batch, log_prob=batch.log_prob - 0.05)

    def loss():
        network, params = learner.network, learner.network.distribution_params()
        latent = network.encoder(code)
        output = network.output(batch.obs, latent)
        ratio = (
            learner._distribution.log_prob(params, output, batch.action) - batch.log_prob
        ).exp()
        bounded = ratio.clamp(0.8, 1.2)
        gain = torch.minimum(ratio * batch.advantage, bounded * batch.advantage).mean()
        error = (network.value(batch.obs, latent) - batch.target).square().mean()
        return float(-gain + 0.5 * error)

    weight = learner.network.encoder[0].weight
    place, step = (2, 0), 1e-6
    with torch.no_grad():
        weight[place] += step
        above = loss()
        weight[place] -= 2.0 * step
        below = loss()
        weight[place] += step
    for adam in learner._state.adams.values():
        adam.param_groups[0]["lr"] = 0.0
        adam.state.clear()
    teacher.train(batch, code, [np.arange(len(batch.obs))])
    assert float(weight.grad[place]) == pytest.approx((above - below) / (2.0 * step), rel=1e-4)


def test_read_memory_gives_what_acting_used(monkeypatch):
    learner = build()
    learn(learner, range(2))
    kept, step = [], learner._state.acting.memory.step

    def recorded(inputs, state):
        features, after = step(inputs, state)
        kept.append((features, inputs))
        return features, after

    monkeypatch.setattr(learner._state.acting.memory, "step", recorded)
    rollouts, *_ = collect(learner, 2)
    features, inputs = learner.read_memory(rollouts)
    for t, (feature, own) in enumerate(kept):
        torch.testing.assert_close(features[t], feature, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(inputs[t], own)
    assert len(Sequences.of(rollouts).obs) == len(kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "hopfield"}, "learner.memory.*gru, lstm, mann, mingru or transformer"),
        ({"memory": "transformer", "memory_size": 30}, "multiple of 4"),
        ({"teacher_updates": -1}, "learner.teacher_updates"),
        ({"student_updates": -1}, "learner.student_updates"),
        ({"mode": "multi-task"}, "learner.mode.*student or oracle"),
        ({"student_lr": 0.0}, "learner.student_lr"),
        ({"latent_weight": -1.0}, "learner.latent_weight"),
        ({"initial_log_std": -4.0}, "learner.initial_log_std.*learner.min_log_std"),
    ],
)
def test_bad_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        TeacherStudentConfig(**settings)
