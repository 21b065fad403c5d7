"""The update of PEARL, its settings, runs that forget tasks, and sessions."""

import dataclasses

import numpy as np
import pytest
import torch
from pearl_cases import SMALL, learner, make_rollout
from small_training import CONFIG, assert_same_runs, run, saved, trainer_in

import metarl
from metarl.config.schema import TrainerConfig
from metarl.core.env import supports
from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.learner import HasBoundedReplay
from metarl.envs.registry import make
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.pearl.pearl import Pearl, _choose_tasks
from metarl.learners.registry import build_learner, find_algorithm
from metarl.training.trainer import restore


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


def test_run_starts_from_another_run_not_a_published_policy():
    source, own = learner(seed=1), learner(seed=2)
    for pearl in (source, own):
        pearl.update(None, [make_rollout(0), make_rollout(1)], np.zeros((3, 2)))
    state, before = source.state_dict(), own.state_dict()
    published = {name: value for name, value in state.items() if not source.is_optimiser(name)}
    assert {name.split("/")[1] for name in published if "/" in name} == {"encoder", "actor"}
    tasks = make("navigation-2d").spec.tasks
    with pytest.raises(ConfigError, match="^--init-from: a published policy of pearl has no crit"):
        own.start_from(published, tasks)
    with pytest.raises(ValueError, match="policy/actor/0/bias"):
        own.start_from({n: v for n, v in state.items() if n != "policy/actor/0/bias"}, tasks)
    assert own.replay_size() == 12
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    text = "encoder, actor and critics go on; the replay buffer begins anew"
    assert own.start_from(state, tasks) == text
    after = own.state_dict()
    assert after.pop("updates") == 0 and own.replay_size() == 0
    assert all(torch.equal(value, state[name]) for name, value in after.items())


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
        ("final_target_entropy", 0.7, "learner.final_target_entropy = 0.7: must be below log 2"),
        ("exploration_updates", -1, "learner.exploration_updates = -1: must be at least 0"),
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


def test_target_entropy_changes_after_exploration():
    rollouts = [make_rollout(0), make_rollout(1)]
    explores = dataclasses.replace(SMALL, target_entropy=-0.5)
    both = learner(dataclasses.replace(explores, exploration_updates=2, final_target_entropy=-3.0))
    first, second = (
        learner(dataclasses.replace(SMALL, target_entropy=value)) for value in (-0.5, -3.0)
    )
    for each in (both, first):
        for _ in range(2):
            each.update(None, rollouts, np.zeros((3, 2)))
    middle = first.state_dict()
    assert all(torch.equal(value, middle[n]) for n, value in both.state_dict().items())
    second.load_state_dict(middle)
    second.load_replay(first.read_replay(first.replay_start(), first.replay_size()))
    for each in (both, first, second):
        each.update(None, rollouts, np.zeros((3, 2)))
    after, name = both.state_dict(), "policy/log_temperature"
    assert all(torch.equal(value, after[n]) for n, value in second.state_dict().items())
    assert not torch.equal(first.state_dict()[name], after[name])


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
