"""The five verbs of PEARL, its context, and runs that forget tasks."""

import dataclasses

import numpy as np
import pytest
import torch
from small_training import CONFIG, assert_same_runs, run, saved, trainer_in
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, TanhTransform

import metarl
from metarl.config.schema import TrainerConfig
from metarl.core.env import supports
from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.learner import HasBoundedReplay
from metarl.core.rng import stream
from metarl.core.rollout import Feedback, Rollout
from metarl.envs.registry import make
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.pearl.context import PearlContext
from metarl.learners.pearl.pearl import Pearl, _choose_tasks
from metarl.learners.registry import build_learner, find_algorithm
from metarl.training.trainer import restore

SMALL = PearlConfig(
    latent_size=3,
    hidden_sizes=(8,),
    encoder_sizes=(8,),
    action_limit=0.1,
    update_ratio=0.005,
    task_memory=5,
    recent_tasks=3,
)


def learner(config=SMALL, seed=0):
    return Pearl(config, 2, 2, seed=seed)


def streams(num_tasks, name="adapt"):
    return [stream(0, name, task) for task in range(num_tasks)]


def make_rollout(seed, num_tasks=3, num_episodes=2, steps=5):
    draw = torch.Generator().manual_seed(seed)
    size = num_tasks, num_episodes
    length = torch.randint(1, steps + 1, size, generator=draw)
    valid = torch.arange(steps) < length.unsqueeze(-1)
    return Rollout(
        obs=torch.randn(*size, steps, 2, generator=draw) * valid.unsqueeze(-1),
        action=0.1 * torch.rand(*size, steps, 2, generator=draw) * valid.unsqueeze(-1),
        log_prob=torch.zeros(*size, steps),
        reward=torch.randn(*size, steps, generator=draw) * valid,
        valid=valid,
        terminated=length < steps,
        truncated=torch.zeros(size, dtype=torch.bool),
        last_obs=torch.randn(*size, 2, generator=draw),
    )


def test_adapt_multiplies_the_factors_of_all_valid_transitions():
    """Against a loop over the transitions of two rollouts."""
    pearl, rollouts = learner(), [make_rollout(seed) for seed in (0, 1)]
    context = pearl.begin(3, 2, streams(3, "begin"))
    for rollout in rollouts:
        context = pearl.adapt(context, rollout, streams(3))
    params = {name: value.detach() for name, value in pearl.params.items()}
    for task in range(3):
        precision, weighted = torch.ones(3), torch.zeros(3)
        for rollout in rollouts:
            for episode in range(2):
                count = int(rollout.valid[task, episode].sum())
                ends = [*rollout.obs[task, episode, :count], rollout.last_obs[task, episode]]
                for step in range(count):
                    action = rollout.action[task, episode, step] / 0.1
                    reward = rollout.reward[task, episode, step].view(1)
                    x = torch.cat([ends[step], action, reward, ends[step + 1]])
                    x = (params["encoder/0/weight"] @ x + params["encoder/0/bias"]).relu()
                    x = params["encoder/1/weight"] @ x + params["encoder/1/bias"]
                    own = torch.nn.functional.softplus(x[3:])
                    precision, weighted = precision + own, weighted + own * x[:3]
        torch.testing.assert_close(context.posterior.precision[task], precision)
        torch.testing.assert_close(context.posterior.mean[task], weighted / precision)


def test_each_episode_acts_on_its_own_sample_of_the_guess():
    pearl, rollout = learner(), make_rollout(0)
    context = pearl.begin(3, 2, streams(3, "begin"))
    for task, rng in enumerate(streams(3, "begin")):
        drawn = torch.from_numpy(rng.standard_normal((2, 3), np.float32))
        assert torch.equal(context.read(explore=True)[task], drawn)  # of the prior
    context = pearl.adapt(context, rollout, streams(3))
    mean, std = context.posterior.mean, context.posterior.precision.rsqrt()
    for task, rng in enumerate(streams(3)):
        drawn = torch.from_numpy(rng.standard_normal((2, 3), np.float32))
        latent = context.read(explore=True)
        torch.testing.assert_close(latent[task], mean[task] + std[task] * drawn)
    assert not torch.equal(latent[:, 0], latent[:, 1])


def test_experience_of_one_task_does_not_reach_another():
    pearl, rollout = learner(), make_rollout(0)
    changed = dataclasses.replace(rollout, reward=rollout.reward.clone())
    changed.reward[1] += 1.0
    contexts = [
        pearl.adapt(pearl.begin(3, 2, streams(3)), each, streams(3)) for each in (rollout, changed)
    ]
    latents = [context.read(explore=True) for context in contexts]
    same = (latents[0] == latents[1]).flatten(1).all(dim=1)
    assert same.tolist() == [True, False, True]


def test_log_prob_of_an_action_is_its_density():
    pearl, obs = learner(), torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1))
    context = pearl.begin(3, 2, streams(3))
    with torch.inference_mode():
        action, _ = pearl.act(context, obs, noise, explore=True)
        mean, log_std = pearl.networks.policy(pearl.params, obs, context.read(explore=True))
    to_limit = [TanhTransform(), AffineTransform(0.0, 0.1)]
    expected = TransformedDistribution(Normal(mean, log_std.exp()), to_limit)
    torch.testing.assert_close(action.log_prob, expected.log_prob(action.value).sum(dim=-1))
    assert action.value.abs().max() < 0.1


def test_without_exploration_the_mean_of_the_guess_acts():
    pearl, obs = learner(), torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    context = pearl.adapt(pearl.begin(3, 2, streams(3)), make_rollout(0), streams(3))
    with torch.inference_mode():
        action, _ = pearl.act(context, obs, obs, explore=False)
        for task in range(3):
            latent = context.posterior.mean[task].expand(2, -1)
            mean, _ = pearl.networks.policy(pearl.params, obs[task], latent)
            torch.testing.assert_close(action.value[task], 0.1 * mean.tanh())


def play(pearl, rollout, *, explore):
    """Shows the learner a rollout step by step; returns the context at each step."""
    context, contexts = pearl.begin(3, 2, streams(3, "begin")), []
    alive, feedback = torch.ones(3, 2, dtype=torch.bool), None
    for t in range(rollout.obs.shape[2]):
        obs = torch.where(alive.unsqueeze(-1), rollout.obs[:, :, t], rollout.last_obs)
        with torch.inference_mode():
            _, context = pearl.act(context, obs, torch.zeros(3, 2, 2), feedback, explore=explore)
        contexts.append(context)
        # the rollout's action takes the place of the learner's
        if context.last is not None:
            context = dataclasses.replace(context, last=(obs, rollout.action[:, :, t]))
        alive = rollout.valid[:, :, t + 1] if t + 1 < rollout.valid.shape[2] else ~alive & alive
        feedback = Feedback(rollout.reward[:, :, t], alive)
    return contexts


@pytest.mark.parametrize("explore", [True, False])
def test_guess_of_a_step_reads_the_steps_of_its_own_episode(explore):
    """Against `adapt` to the beginning of each episode alone."""
    pearl, rollout = learner(dataclasses.replace(SMALL, guess="step")), make_rollout(0)
    for t, context in enumerate(play(pearl, rollout, explore=explore)):
        latent, length = context.read(explore=explore), rollout.valid.sum(dim=2)
        for task in range(3):
            for episode in range(2):
                known = min(t, int(length[task, episode]) - 1)  # the last step ends the episode
                one = {
                    n: v[task : task + 1, episode : episode + 1] for n, v in vars(rollout).items()
                }
                beginning = dataclasses.replace(
                    Rollout(**one),
                    valid=one["valid"] & (torch.arange(5) < known),
                    last_obs=one["obs"][:, :, known],
                )
                empty = pearl.begin(1, 1, [])
                guess = pearl.adapt(empty, beginning, []).posterior if known else empty.posterior
                noise = context.noise[task, episode] if explore else 0.0
                expected = guess.mean[0] + guess.precision[0].rsqrt() * noise
                torch.testing.assert_close(latent[task, episode], expected)


def test_guess_of_an_episode_does_not_change_within_it():
    contexts = play(learner(), make_rollout(0), explore=True)
    first = contexts[0].read(explore=True)
    assert all(torch.equal(context.read(explore=True), first) for context in contexts)


def test_next_episode_starts_from_finished_episodes():
    pearl, rollout = learner(dataclasses.replace(SMALL, guess="step")), make_rollout(0)
    played = play(pearl, rollout, explore=True)[-1]
    fresh = pearl.begin(3, 2, streams(3, "begin"))
    for after in (pearl.select_episodes(played, 0, 2), pearl.adapt(played, rollout, streams(3))):
        assert after.present is None and after.last is None
    expected = pearl.adapt(fresh, rollout, streams(3))
    after = pearl.adapt(played, rollout, streams(3))
    assert torch.equal(after.read(explore=True), expected.read(explore=True))


def test_slices_of_tasks_act_as_all_of_them():
    """Contexts are cut and joined at every step; one task's episodes end at once."""
    pearl, rollout = learner(dataclasses.replace(SMALL, guess="step")), make_rollout(0)
    whole = parted = pearl.begin(3, 2, streams(3, "begin"))
    feedback = None
    for t in range(4):
        alive = rollout.valid[:, :, t + 1]
        obs, noise = rollout.obs[:, :, t], rollout.obs[:, :, t]
        with torch.inference_mode():
            expected, whole = pearl.act(whole, obs, noise, feedback, explore=True)
            actions, contexts = [], []
            for own in (slice(0, 1), slice(1, 3)):
                outcome = feedback and Feedback(feedback.reward[own], feedback.alive[own])
                part = parted.slice_tasks(own.start, own.stop)
                action, after = pearl.act(part, obs[own], noise[own], outcome, explore=True)
                actions.append(action.value)
                contexts.append(after)
        parted = PearlContext.join(contexts)
        torch.testing.assert_close(torch.cat(actions), expected.value)
        feedback = Feedback(rollout.reward[:, :, t], alive)
    assert parted.present is not None and whole.present is not None
    torch.testing.assert_close(parted.present.mean, whole.present.mean)


def test_episodes_are_over_where_a_slice_has_not_acted():
    pearl = learner(dataclasses.replace(SMALL, guess="step"))
    start = pearl.begin(3, 2, streams(3, "begin"))
    obs = torch.zeros(2, 2, 2)
    with torch.inference_mode():
        _, acted = pearl.act(start.slice_tasks(0, 2), obs, obs, None, explore=True)
    joined = PearlContext.join([acted, start.slice_tasks(2, 3)])
    assert joined.last is None and joined.present is None
    assert torch.equal(joined.read(explore=True), start.read(explore=True))


def test_half_of_a_batch_is_of_recent_tasks():
    rng, usable = np.random.default_rng(0), np.array([0, 2, 3, 7, 8])
    drawn = np.stack([_choose_tasks(rng, usable, 7, 5) for _ in range(500)])
    assert set(drawn[:, :3].ravel()) == {7, 8} and set(drawn[:, 3:].ravel()) == set(usable)
    nothing_recent = _choose_tasks(rng, usable, 9, 4)
    assert set(nothing_recent) <= set(usable) and len(nothing_recent) == 4


def test_update_takes_as_many_gradient_steps_as_the_ratio_says():
    pearl = learner(dataclasses.replace(SMALL, update_ratio=0.2))
    rollouts = [make_rollout(0), make_rollout(1)]
    steps = sum(rollout.num_steps() for rollout in rollouts)
    metrics = pearl.update(None, rollouts, np.zeros((3, 2)))
    assert metrics["update/gradient_steps"] == round(0.2 * steps) > 1
    assert int(pearl.state_dict()["adam/steps"]) == round(0.2 * steps)
    assert metrics["replay/episodes"] == pearl.replay_size() == 12


def test_step_size_falls_to_half_in_an_update():
    """The second update is that of a learner whose step size is half from the start."""
    rollouts, tasks = [make_rollout(seed) for seed in (0, 1)], np.zeros((3, 2))
    falling, constant = learner(dataclasses.replace(SMALL, lr_halving=1)), learner()
    for pearl in (falling, constant, falling):
        pearl.update(None, rollouts, tasks)
    half = learner(dataclasses.replace(SMALL, lr=0.5 * SMALL.lr))
    half.load_state_dict(constant.state_dict())
    half.load_replay(constant.read_replay(0, constant.replay_size()))
    half.update(None, rollouts, tasks)
    constant.update(None, rollouts, tasks)
    expected = half.state_dict()
    for name, value in falling.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(constant.params["actor/0/weight"], half.params["actor/0/weight"])


def test_target_critics_follow_the_critics():
    pearl = learner(dataclasses.replace(SMALL, target_rate=0.25))
    before = {name: value.clone() for name, value in pearl.target.items()}
    assert all(torch.equal(before[name], pearl.params[name]) for name in before)
    rollouts = [make_rollout(0), make_rollout(1)]
    assert pearl.update(None, rollouts, np.zeros((3, 2)))["update/gradient_steps"] == 1
    for name, old in before.items():
        torch.testing.assert_close(pearl.target[name], 0.75 * old + 0.25 * pearl.params[name])


def test_rollouts_without_a_valid_step_are_refused():
    pearl, rollout = learner(), make_rollout(0)
    nothing = dataclasses.replace(rollout, valid=torch.zeros_like(rollout.valid))
    with pytest.raises(ValueError, match="no task in the replay buffer has a valid step"):
        pearl.update(None, [nothing, nothing], np.zeros((3, 2)))
    assert pearl.replay_size() == 0


def test_discrete_actions_are_refused_in_one_line():
    spec = dataclasses.replace(make("navigation-2d").spec, discrete=True)
    with pytest.raises(ConfigError, match="--algo pearl on navigation-2d: the actions are discr"):
        build_learner(find_algorithm("pearl"), SMALL, spec, seed=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_sizes", (), r"learner.hidden_sizes = \(\): must be each at least 1"),
        ("update_ratio", 0.0, "learner.update_ratio = 0.0: must be a finite number > 0"),
        ("target_entropy", 0.7, "learner.target_entropy = 0.7: must be below log 2"),
        ("guess", "now", "learner.guess = 'now': must be episode or step"),
        ("decoder_weight", -1.0, "learner.decoder_weight = -1.0: must be a finite number >= 0"),
        ("lr_halving", -1, "learner.lr_halving = -1: must be at least 0"),
        ("task_memory", 0, "learner.task_memory = 0: must be at least 1"),
        ("target_rate", 1.5, r"learner.target_rate = 1.5: must be in \(0, 1\]"),
    ],
)
def test_setting_out_of_range_is_named(field, value, message):
    with pytest.raises(ConfigError, match=message):
        PearlConfig(**{field: value})


# --- runs

OFTEN = dataclasses.replace(CONFIG, trainer=TrainerConfig(checkpoint_minutes=1e-6))


def train(folder, iterations, **options):
    """Trains with 2 new tasks an iteration, of which the last 5 stay."""
    config = dataclasses.replace(OFTEN, iterations=iterations)
    own = learner()
    run(trainer_in(folder, config=config, learner=own, **options))
    return own


def test_run_that_forgets_tasks_is_resumed_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", 5)
    train(tmp_path / "half", 3)
    resumed = train(tmp_path / "half", 5, resume=True)
    assert supports(whole, HasBoundedReplay)
    assert whole.replay_size() == 40 and whole.replay_start() == 20
    assert_same_runs(tmp_path / "half", tmp_path / "whole")
    stores = [each.read_replay(each.replay_start(), 40) for each in (whole, resumed)]
    assert all(torch.equal(stores[0][name], stores[1][name]) for name in stores[0])
    files = [len(list((tmp_path / f / "checkpoints/replay").iterdir())) for f in ("whole", "half")]
    assert max(files) <= 5 and saved(tmp_path / "whole").replay["number"][0] >= 16


def test_checkpoint_of_another_environment_is_refused(tmp_path):
    train(tmp_path, 1)
    other = Pearl(SMALL, 3, 2, seed=0)
    before = other.state_dict()
    with pytest.raises(CheckpointError, match="iteration 1 does not fit"):
        restore(other, saved(tmp_path))
    broken = dataclasses.replace(saved(tmp_path), replay={"number": torch.zeros(3)})
    own = learner(seed=4)
    start = own.state_dict()
    with pytest.raises(CheckpointError, match="the replay store has other entries"):
        restore(own, broken)
    for one, state in ((other, before), (own, start)):
        assert all(torch.equal(state[n], v) for n, v in one.state_dict().items())


def test_reward_error_is_logged_with_a_decoder_alone():
    rollouts = [make_rollout(0), make_rollout(1)]
    for weight in (0.0, 1.0):
        pearl = learner(dataclasses.replace(SMALL, decoder_weight=weight))
        metrics = pearl.update(None, rollouts, np.zeros((3, 2)))
        assert ("update/reward_error" in metrics) == (weight > 0.0)


def test_decoder_learns_rewards_of_any_mean_and_spread():
    """The gradients of 5 + 0.01 e are those of e, up to rounding."""
    states = []
    for mean, spread in ((0.0, 1.0), (5.0, 0.01)):
        pearl = learner(dataclasses.replace(SMALL, decoder_weight=1.0, reward_scale=1e-6))
        rollouts = [make_rollout(seed) for seed in (0, 1)]
        scaled = [
            dataclasses.replace(each, reward=(mean + spread * each.reward) * each.valid)
            for each in rollouts
        ]
        pearl.update(None, scaled, np.zeros((3, 2)))
        states.append(pearl.state_dict())
    for name in states[0]:
        if name.startswith("policy/decoder"):
            torch.testing.assert_close(states[0][name], states[1][name], atol=1e-4, rtol=0.0)


def test_session_that_adapts_while_it_acts_does_not_explore(tmp_path):
    settings = {"hidden_sizes": [8], "encoder_sizes": [8], "update_ratio": 1e-3, "guess": "step"}
    size = {"num_tasks": 2, "num_episodes": 1, "threads": 1}
    options = {"learner": settings, "sampler": size, "iterations": 1, "run_dir": tmp_path / "run"}
    with metarl.train("navigation-2d", "pearl", evaluate=False, **options) as policy:
        session = policy.start()
        assert session.deterministic
        controls, state = policy.predict(np.zeros((2, 2)))
        np.testing.assert_allclose(controls[0], session.act(np.zeros(2)))
        for t in range(3):
            obs, reward = np.full(2, 0.1 * t), -0.5 * t
            starts = np.array([False, t == 2])  # the second robot begins anew
            controls, state = policy.predict(
                np.stack([obs, np.zeros(2)]), state, episode_start=starts, reward=np.full(2, reward)
            )
            np.testing.assert_allclose(controls[0], session.act(obs, reward), atol=1e-6)
        np.testing.assert_allclose(controls[1], policy.predict(np.zeros((2, 2)))[0][1])
        with pytest.raises(ConfigError, match="reward is missing"):
            policy.predict(np.zeros((2, 2)), state)


def test_session_explores_until_it_has_adapted(tmp_path):
    settings = {"hidden_sizes": [8], "encoder_sizes": [8], "update_ratio": 1e-3}
    size = {"num_tasks": 2, "num_episodes": 1, "threads": 1}
    options = {"learner": settings, "sampler": size, "iterations": 1, "run_dir": tmp_path / "run"}
    with metarl.train("navigation-2d", "pearl", evaluate=False, **options) as policy:
        session = policy.start()
        assert not session.deterministic
        for t in range(3):
            session.act(np.zeros(2), 0.5 if t else None)
        session.end_episode(0.5, obs=np.ones(2))
        session.adapt()
        assert session.deterministic and session.act(np.zeros(2)).shape == (2,)
