"""VariBAD on tasks that differ in a sign."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from chaotic_memory import assert_roundings_are_no_other_policy
from sign_tasks import SignBatch, signs
from varibad_bench import CONFIG, build, collect, learn
from whole_trial import trial

from metarl.core.errors import ConfigError
from metarl.functional.running_moments import normalize
from metarl.learners.varibad.config import VaribadConfig
from metarl.learners.varibad.networks import POLICY, policy_inputs
from metarl.sampling.sampler import Key
from metarl.sampling.sequences import Sequences


def parameters(learner):
    return {n: v.detach().clone() for n, v in learner.network.named_parameters()}


def changed(before, learner):
    after = parameters(learner)
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def is_of_policy(name):
    return name.startswith(POLICY) or name == "log_std"


def test_ppo_changes_the_policy_alone_and_the_elbo_the_others():
    learner = build(replace(CONFIG, transition_weight=1.0))
    learn(learner, range(1))
    rollouts, *_ = collect(learner, 1)
    names = set(parameters(learner))
    before = parameters(learner)
    learner._train_policy(rollouts)
    assert changed(before, learner) == {name for name in names if is_of_policy(name)}
    before = parameters(learner)
    learner._train_encoder()
    assert changed(before, learner) == {name for name in names if not is_of_policy(name)}


def test_no_gradient_goes_from_the_policy_to_the_encoder():
    network = build().network
    features, obs = network.memory.unroll(torch.randn(5, 3, 5)), torch.randn(5, 3, 2)
    inputs = policy_inputs(obs, network.belief(features))
    loss = (network.output(inputs) ** 2).sum() + (network.value(inputs) ** 2).sum()
    own = network.encoder_parameters()
    assert all(v is None for v in torch.autograd.grad(loss, own, allow_unused=True))
    assert len(own) + len(network.policy_parameters()) == len(list(network.parameters()))


@pytest.mark.parametrize("memory", ["gru", "mingru", "lstm", "transformer"])
def test_beliefs_of_acting_equal_those_of_learning(memory):
    learner = build(replace(CONFIG, memory=memory))
    learn(learner, range(2), eventful=True)
    kept = []
    hook = learner._state.acting.belief.register_forward_hook(lambda *a: kept.append(a[2].detach()))
    rollouts, *_ = collect(learner, 2, eventful=True)
    hook.remove()
    beliefs, inputs = learner.read_memory(rollouts)
    assert beliefs.shape[-1] == 2 * CONFIG.latent_size and inputs.shape[-1] == 2 + 1 + 2
    steps, seen = Sequences.of(rollouts), np.zeros(12, int)
    lengths = [[int(n) for n in (r.valid.sum(2) + r.truncated).flatten()] for r in rollouts]
    number = iter(kept)
    for each in lengths:
        for t in range(max(each)):
            acted = next(number)
            for row in (row for row in range(12) if t < each[row]):
                here = beliefs[seen[row], row]
                torch.testing.assert_close(acted[row], here, rtol=1e-4, atol=1e-5)
                seen[row] += 1
    assert seen.tolist() == steps.acted.sum(dim=0).tolist()


def test_memory_that_multiplies_roundings_is_no_other_policy(monkeypatch):
    learner = build(replace(CONFIG, memory="gru", epochs=1, initial_log_std=-2.0))

    def collected():
        rollouts, context, tasks = collect(learner, 0, horizon=200)
        return context, rollouts, tasks

    assert_roundings_are_no_other_policy(learner, learner.network, collected, 1e-4, monkeypatch)


def obvious_advantages(learner, rollouts, config):
    """Raw advantages of the valid steps, one trial after the other."""
    moments = learner._state.moments
    scale, (mean, factor) = moments["obs"].scale(), moments["value"].scale()
    beliefs, _ = learner.read_memory(rollouts)
    found = []

    @torch.no_grad()
    def value(obs, belief):
        inputs = torch.cat([normalize(obs, scale), belief])
        return float(learner.network.value(inputs) / factor + mean)

    for row, (n, e) in enumerate(np.ndindex(*rollouts[0].terminated.shape)):
        place, trial = 0, []  # (reward, value, value after it, whether the sum goes on)
        for k, rollout in enumerate(rollouts):
            count = int(rollout.valid[n, e].sum())
            fell, failed = bool(rollout.terminated[n, e]), bool(rollout.truncated[n, e])
            for t in range(count):
                here = value(rollout.obs[n, e, t], beliefs[place + t, row])
                trial.append([float(rollout.reward[n, e, t]), here, None, True])
                if t:
                    trial[-2][2] = here
            if count and trial[:-count] and trial[-count - 1][3]:
                trial[-count - 1][2] = trial[-count][1]
            is_closed = config.credit == "episode" or k == len(rollouts) - 1
            if count and (is_closed or failed or (fell and config.falls == "end")):
                trial[-1][3] = False
                belief = beliefs[place + count - 1 + failed, row]
                after = 0.0 if fell else value(rollout.last_obs[n, e], belief)
                trial[-1][2] = after
            place += count + failed
        total, own = 0.0, []
        for reward, here, after, goes_on in reversed(trial):
            delta = reward + config.discount * after - here
            total = delta + config.discount * config.gae_lambda * total * goes_on
            own.append(total)
        found += own[::-1]
    return torch.tensor(found)


@pytest.mark.parametrize("falls", ["continue", "end"])
@pytest.mark.parametrize("credit", ["trial", "episode"])
def test_advantages_equal_a_loop_over_trials(credit, falls):
    config = replace(CONFIG, credit=credit, falls=falls, discount=0.9)
    learner = build(config)
    learn(learner, range(2), eventful=True)
    rollouts, *_ = collect(learner, 2, eventful=True, num_adaptations=2)
    assert any(bool(r.terminated.any()) for r in rollouts)
    advantage = obvious_advantages(learner, rollouts, config)
    steps = Sequences.of(rollouts)
    batch, _ = learner._estimate(rollouts, steps, learner._read(learner._inputs(steps)))
    order = torch.arange(steps.valid.numel()).view_as(steps.valid)[steps.valid].argsort()
    by_trial = torch.arange(steps.valid.numel()).view(steps.valid.shape[::-1]).T[steps.valid]
    found = batch.advantage[order][by_trial.argsort()]
    expected = (advantage - advantage.mean()) / advantage.std(correction=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_belief_tells_the_tasks_apart():
    config = replace(CONFIG, encoder_updates=20, decoder_size=32, initial_log_std=0.0)
    learner = build(config)
    _, first = learn(learner, range(1), num_tasks=16)
    rollouts, last = learn(learner, range(1, 20), num_tasks=16)
    assert last["update/reward_error"] < 0.3 * first["update/reward_error"]
    beliefs, _ = learner.read_memory(rollouts)
    mean = beliefs[-1, :, :3]
    sign = torch.from_numpy(signs(16, 19)).repeat_interleave(2).float()
    centres = mean[sign > 0].mean(dim=0), mean[sign < 0].mean(dim=0)
    nearer = (mean - centres[0]).norm(dim=1) < (mean - centres[1]).norm(dim=1)
    assert torch.equal(nearer, sign > 0)


def test_start_from_other_tasks_empties_the_buffer():
    learner, other = build(), build(seed=1)
    learn(learner, range(2))
    text = other.start_from(learner.state_dict(), None)
    assert "the buffer of trials starts empty" in text
    found, state = other.state_dict(), learner.state_dict()
    assert not any(found[n].any() for n in found if n.startswith("buffer/"))
    own = {n for n in found if not n.startswith("buffer/")} - {"adam/lr", "updates"}
    assert not found["updates"] and state["updates"] == 2
    assert all(torch.equal(found[n], state[n]) for n in own)
    published = {n: v for n, v in state.items() if not learner.is_optimiser(n)}
    assert not any(name.startswith(("buffer/", "adam/")) for name in published)
    build().start_from(published, None)
    learn(other, range(1))


@pytest.mark.parametrize("target_kl", [0.0, 0.01])
def test_start_from_another_run_has_the_own_step_size(target_kl):
    config = replace(CONFIG, target_kl=target_kl, lr=1e-9)
    learner = build(config)
    learner.start_from(build(replace(config, lr=1e-2)).state_dict(), None)
    assert float(learner.state_dict()["adam/lr"]) == 1e-9


def test_state_of_a_learner_is_restored_with_its_buffer():
    learner, other = build(), build()
    learn(learner, range(3), eventful=True)
    other.load_state_dict(learner.state_dict())
    for each in (learner, other):
        learn(each, range(3, 4), eventful=True)
    expected = learner.state_dict()
    assert all(torch.equal(value, expected[n]) for n, value in other.state_dict().items())
    assert other._buffer.count == 20


def test_log_probabilities_of_another_policy_stop_the_update():
    learner = build()
    rollouts, context, tasks = collect(learner)
    rollouts[1] = replace(rollouts[1], log_prob=rollouts[1].log_prob + 0.01)
    with pytest.raises(FloatingPointError, match="is not the policy that acted"):
        learner.update(context, rollouts, tasks)


def test_simulations_that_fail_at_once_are_left_out():
    class Broken(SignBatch):
        def step(self, action, alive):
            step = super().step(action, alive)
            step.fault = alive & (np.arange(len(alive)) % 2 == 0)
            return step

    learner = build()
    tasks = signs(4)
    rollouts, context = trial(Broken(), learner, tasks, 2, 1, Key(0, "train", 0))
    assert not rollouts[0].valid[:, 0].any() and rollouts[0].valid[:, 1].all()
    metrics = learner.update(context, rollouts, tasks)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("latent_size", 0, "learner.latent_size = 0: must be at least 1"),
        ("elbo_steps", -1, "learner.elbo_steps = -1: must be at least 0"),
        ("kl_weight", float("inf"), "learner.kl_weight = inf"),
        ("credit", "life", "learner.credit = 'life': must be trial or episode"),
        ("falls", "stop", "learner.falls = 'stop': must be continue or end"),
        ("memory", "tape", "learner.memory = 'tape'"),
        ("buffer_trials", 10**6, "learner.buffer_trials = 1000000: must be at most 100,000"),
        ("encoder_lr", 0.0, "learner.encoder_lr = 0.0"),
    ],
)
def test_config_names_the_setting_that_is_out_of_range(field, value, text):
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        VaribadConfig(**{field: value})


def test_a_single_large_gradient_makes_no_larger_step(monkeypatch):
    """Adam divides by the size of the gradients before, so a longer one would be a longer step."""
    moves = {}
    for limit in (0.1, 1e9):
        learner = build(replace(CONFIG, encoder_max_gradient=limit, encoder_updates=1))
        learn(learner, range(1))
        own = learner._state.adams["encoder"].param_groups[0]["params"]
        usual = [torch.randn(v.shape, generator=torch.Generator().manual_seed(0)) for v in own]
        usual = [0.05 * v / torch.cat([u.flatten() for u in usual]).norm() for v in usual]
        for factor in [1.0] * 200 + [100.0]:
            gradient = [factor * v for v in usual]
            monkeypatch.setattr(
                "metarl.learners.varibad.varibad.elbo_gradient",
                lambda *_, given=gradient: (given, torch.zeros(3)),
            )
            before = torch.cat([v.detach().flatten().clone() for v in own])
            learner._train_encoder()
            move = float((torch.cat([v.detach().flatten() for v in own]) - before).norm())
            moves.setdefault(limit, []).append(move)
    assert moves[0.1][-1] < 1.15 * moves[0.1][-2]
    assert moves[1e9][-1] > 1.3 * moves[1e9][-2]
