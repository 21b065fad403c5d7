import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from gain_robot import FIELDS, HORIZON, KEY, TASKS, Gain, Robot, RobotBatch, assert_same, collect

from metarl.core.errors import EnvironmentContractError
from metarl.core.rollout import Action, Rollout
from metarl.envs.registry import make
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.sampling.sampler import Key, rollout


def collect_slowly(num_episodes=4, explore=True, k=1):
    """Collects the same rollout, one episode after the other."""
    shape = (len(TASKS), num_episodes, HORIZON)
    empty = {
        "obs": torch.zeros(*shape, 2),
        "action": torch.zeros(*shape, 3),
        "log_prob": torch.zeros(shape),
        "reward": torch.zeros(shape),
        "valid": torch.zeros(shape, dtype=torch.bool),
        "terminated": torch.zeros(shape[:2], dtype=torch.bool),
        "truncated": torch.zeros(shape[:2], dtype=torch.bool),
        "last_obs": torch.zeros(*shape[:2], 2),
    }
    result, learner = Rollout(**empty), Gain()
    context = learner.begin(*shape[:2], ())
    for i, (limit, fails_at) in enumerate(TASKS):
        for j in range(num_episodes):
            rng = KEY.episodes(k, *shape[:2])[i * num_episodes + j]
            robot = Robot(limit, fails_at)
            obs = robot.reset(rng)
            noise = torch.from_numpy(rng.standard_normal((HORIZON, 3), dtype=np.float32))
            for t in range(HORIZON):
                result.obs[i, j, t] = torch.from_numpy(obs)
                result.last_obs[i, j] = torch.from_numpy(obs)
                row, own = result.obs[i, j, t].view(1, 1, 2), context[i : i + 1]
                chosen, _ = learner.act(own, row, noise[t].view(1, 1, 3), explore=explore)
                obs, reward, terminated, fault = robot.step(chosen.value[0, 0].numpy())
                if fault:
                    result.truncated[i, j] = True
                    break
                result.action[i, j, t] = chosen.value[0, 0]
                result.log_prob[i, j, t] = chosen.log_prob[0, 0]
                result.reward[i, j, t] = reward
                result.valid[i, j, t] = True
                result.last_obs[i, j] = torch.from_numpy(obs)
                if terminated:
                    result.terminated[i, j] = True
                    break
    return result


# -------------------------------------------------------------------------------------- one rollout


@pytest.mark.parametrize("explore", [True, False])
def test_lockstep_equals_a_loop_over_episodes(explore):
    collected, _ = collect(explore=explore)
    assert collected.terminated.any() and collected.truncated.any() and collected.valid.all(2).any()
    assert_same(collected, collect_slowly(explore=explore))


def test_invalid_steps_hold_zeros():
    collected, _ = collect()
    rest = ~collected.valid
    failed = rest & (rest.cumsum(dim=2) == 1) & collected.truncated[..., None]
    assert rest.any()
    assert not collected.reward[rest].any()
    assert not collected.action[rest].any()
    assert not collected.log_prob[rest].any()
    assert not collected.obs[rest & ~failed].any()


def test_finished_row_is_never_stepped():
    collected, env = collect()
    stepped = np.stack(env.stepped, axis=1).reshape(*collected.valid.shape[:2], -1)
    # the steps taken are the valid ones and the one that failed
    taken = collected.valid.sum(2) + collected.truncated
    assert stepped.sum(2).tolist() == taken.tolist()
    assert (np.diff(stepped.astype(int), axis=2) <= 0).all()


def test_rollout_stops_when_no_episode_is_left():
    collected, env = collect(tasks=np.array([[-9.0, -1.0]]))  # falls in the first step
    assert len(env.stepped) == 1
    assert collected.valid.sum(2).tolist() == [[1] * 4]
    assert collected.terminated.all() and not collected.truncated.any()


def test_fault_ends_the_episode_and_keeps_its_observation():
    collected, _ = collect()
    task = 1  # fails in step 7
    assert collected.valid[task].tolist() == [[True] * 7 + [False] * 5] * 4
    assert collected.truncated[task].all() and not collected.terminated[task].any()
    assert bool((collected.obs[task, :, 7] != 0.0).all())
    assert not collected.obs[task, :, 8:].any()
    assert not collected.reward[task, :, 7:].any()
    assert all(bool(getattr(collected, name).isfinite().all()) for name in FIELDS)


def test_fault_in_the_first_step_leaves_no_valid_step():
    collected, _ = collect()
    assert not collected.valid[3].any()
    assert collected.truncated[3].all() and not collected.terminated[3].any()
    assert collected.returns()[3].tolist() == [0.0] * 4


def test_last_step_of_a_fall_is_valid_and_horizon_is_no_end():
    collected, _ = collect()
    fell, lasted = collected.terminated[0], ~collected.terminated[2]
    assert fell.any() and lasted.all()
    assert collected.valid[2].all() and not collected.truncated[2].any()
    length = collected.valid[0].sum(1)
    last = collected.reward[0].gather(1, length[:, None] - 1)
    assert bool((last != 0.0).all())


def replay_places(task, actions, rng):
    """Returns the observations (L + 1, 2) of a robot that is sent actions (L, 3)."""
    robot = Robot(*TASKS[task])
    places = [robot.reset(rng)]
    for action in actions:
        place, _, _, fault = robot.step(action)
        assert not fault
        places.append(place)
    return np.float32(places)


def test_last_obs_is_the_one_after_the_last_valid_step():
    collected, _ = collect()
    rngs = KEY.episodes(1, len(TASKS), 4)
    kinds = {"failed": 0, "failed at once": 0, "fallen": 0, "horizon": 0}
    for task, episode in np.ndindex(len(TASKS), 4):
        length = int(collected.valid[task, episode].sum())
        actions = collected.action[task, episode, :length].numpy()
        places = replay_places(task, actions, rngs[task * 4 + episode])
        last = collected.last_obs[task, episode].numpy()
        np.testing.assert_array_equal(last, places[-1])
        if collected.truncated[task, episode]:  # the observation before the fault
            np.testing.assert_array_equal(last, collected.obs[task, episode, length].numpy())
            kinds["failed" if length else "failed at once"] += 1
        elif collected.terminated[task, episode]:  # the terminal observation
            assert last[0] > TASKS[task][0] >= places[:-1, 0].max()
            kinds["fallen"] += 1
        else:  # the observation after step T
            assert length == HORIZON
            kinds["horizon"] += 1
    assert all(kinds.values()), kinds


def test_returns_are_sums_in_double_precision():
    reward = torch.tensor([[[1e8, 1.0, -1e8]]])
    flags = torch.ones(1, 1, dtype=torch.bool)
    obs, valid = torch.zeros(1, 1, 3, 2), torch.tensor([[[True, True, False]]])
    made = Rollout(obs, obs, torch.zeros(1, 1, 3), reward, valid, flags, flags, obs[:, :, 0])
    assert made.returns().tolist() == [[1.0]]
    assert made.returns().dtype == torch.float64
    assert made.num_steps() == 2


def test_mode_does_not_depend_on_the_noise():
    quiet, _ = collect(explore=False)
    mean = quiet.action[quiet.valid]
    assert torch.equal(mean, mean[:, :1].expand_as(mean))  # the mean is equal in every dimension
    assert not torch.equal(quiet.action, collect()[0].action)


def test_observer_is_called_after_every_step():
    calls = []
    env = RobotBatch()

    def observe(k, valid):
        calls.append((k, env.snapshot(), valid.copy()))

    collected, env = collect(k=2, env=env, observer=observe)
    assert [k for k, _, _ in calls] == [2] * len(env.stepped)
    valid = np.stack([alive for _, _, alive in calls], axis=1).reshape(collected.valid.shape)
    assert valid.tolist() == collected.valid.tolist()
    for t in range(len(calls) - 1):  # the state after step t is the observation at t + 1
        snapshot = torch.from_numpy(calls[t][1]).float().view(len(TASKS), 4, 2)
        going_on = collected.valid[:, :, t + 1]
        assert torch.equal(snapshot[going_on], collected.obs[:, :, t + 1][going_on])


def test_acting_uses_one_torch_thread_and_no_gradients():
    modes = []

    class Watching(Gain):
        def act(self, context, obs, noise, feedback=None, *, explore):
            modes.append((torch.get_num_threads(), torch.is_grad_enabled()))
            return super().act(context, obs, noise, feedback, explore=explore)

    env, learner = RobotBatch(), Watching()
    env.set_tasks(TASKS, 1)
    torch.set_num_threads(2)
    try:
        made, _ = rollout(env, learner, learner.begin(5, 1, ()), KEY, 0, (5, 1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(modes) == {(1, False)}
    assert torch.is_grad_enabled()
    assert not made.obs.is_inference()  # the update differentiates functions of it


# ------------------------------------------------------------------------------------------ streams


def take_slice(collected, num_tasks, num_episodes):
    return Rollout(**{n: getattr(collected, n)[:num_tasks, :num_episodes] for n in FIELDS})


def test_episode_does_not_depend_on_other_episodes():
    many, alone = collect(num_episodes=6)[0], collect(num_episodes=1)[0]
    assert_same(take_slice(many, len(TASKS), 1), alone)


@pytest.mark.parametrize("name", ["navigation-2d", "half-cheetah-dir"])
def test_episode_does_not_depend_on_the_batch(name):
    # needs four rows a task: for one to three the matrix product rounds differently
    env = make(name, threads=1)
    learner = Maml(MamlConfig(), env.spec.obs_size, env.spec.action_size, seed=0)
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 3)

    def run(num_tasks, num_episodes):
        context = learner.begin(3, num_episodes, ())
        noise = torch.Generator().manual_seed(0)
        acting = {  # another policy for every task, as after adapting
            n: v[:num_tasks] + 0.1 * torch.randn(v.shape, generator=noise)[:num_tasks]
            for n, v in context.acting.items()
        }
        env.set_tasks(tasks[:num_tasks], num_episodes)
        size = (num_tasks, num_episodes)
        made, _ = rollout(env, learner, dataclasses.replace(context, acting=acting), KEY, 0, size)
        return made

    try:
        small = run(1, 4)
        assert small.num_steps() > 100
        assert_same(take_slice(run(3, 4), 1, 4), small)
        assert_same(take_slice(run(3, 7), 1, 4), small)
    finally:
        env.close()


def test_every_episode_has_its_own_noise():
    first = collect()[0].action[2]  # the task that reaches the horizon
    assert len({tuple(episode[0].tolist()) for episode in first}) == 4
    keys = [Key(3, "train", 2), Key(4, "train", 2), Key(3, "evaluate", 2), Key(3, "train", 3)]
    draws = [
        tuple(rng.standard_normal(4))
        for key in keys
        for k in (0, 1)
        for rng in key.episodes(k, 2, 3)
    ]
    assert len(set(draws)) == len(keys) * 2 * 6


def test_row_is_task_times_episodes_plus_episode():
    rngs = KEY.episodes(0, 3, 4)
    own = KEY.episodes(0, 3, 2)  # the stream of (task 2, episode 1) does not depend on E
    assert rngs[2 * 4 + 1].random() == own[2 * 2 + 1].random()


# ------------------------------------------------------------------------------------------- memory


class HeadsForTheGoal:
    """Reaches the goal of navigation in a few steps, so nearly all steps are invalid."""

    def __init__(self, tasks):
        self.goal = torch.from_numpy(tasks).float()[:, None]

    def act(self, context, obs, noise, feedback=None, *, explore):
        return Action(self.goal - obs, torch.zeros(obs.shape[:2])), context


@pytest.mark.parametrize("early", [False, True], ids=["horizon", "early end"])
def test_peak_memory_is_that_of_arrays_and_generators(early):
    # at most 20 % above the arrays, and 0.6 kB for each episode's generator
    size = (20, 20)
    env = make("navigation-2d")
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 20)
    learner = Maml(MamlConfig(), 2, 2, seed=0)
    env.set_tasks(tasks, 20)
    context = learner.begin(*size, ())
    acting = HeadsForTheGoal(tasks) if early else learner
    rollout(env, acting, context, KEY, 0, size)  # the first call builds what later ones reuse
    tracemalloc.start()
    try:
        rngs = KEY.episodes(0, *size)
        generators = tracemalloc.get_traced_memory()[0]
        del rngs
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        made, _ = rollout(env, acting, context, KEY, 0, size)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (made.num_steps() < 8000) == early
    returned = sum(getattr(made, name).nbytes for name in FIELDS)
    assert returned == 400 * (100 * (8 + 8 + 4 + 4 + 1) + 2 + 8)
    assert generators < 400 * 1000
    assert peak - generators <= 1.2 * returned


def test_arrays_are_aligned_to_64_bytes():
    made, _ = collect()
    assert [getattr(made, name).data_ptr() % 64 for name in FIELDS] == [0] * len(FIELDS)


class Listening(Gain):
    """Keeps the feedback in the context."""

    def begin(self, num_tasks, num_episodes, rngs=()):
        return ()

    def act(self, context, obs, noise, feedback=None, *, explore):
        action, _ = super().act(torch.zeros(len(obs)), obs, noise, explore=explore)
        return action, (*context, feedback)


def test_feedback_is_the_raw_reward_and_the_alive_mask():
    env = RobotBatch()
    env.set_tasks(TASKS, 2)
    made, feedbacks = rollout(env, Listening(), (), KEY, 0, (len(TASKS), 2))
    assert feedbacks[0] is None
    assert not made.valid[..., : len(feedbacks) - 1].all()  # some episodes end early
    for t, feedback in enumerate(feedbacks[1:]):
        assert torch.equal(feedback.reward, made.reward[..., t])
        acted = made.valid[..., t].clone()
        over = (made.valid.sum(dim=2) == t + 1) & made.terminated
        assert torch.equal(feedback.alive, acted & ~over)


class EndsInNan(RobotBatch):
    """Gives NaN as the observation of tasks that have ended, or of all rows at the horizon."""

    def __init__(self, at_horizon):
        super().__init__()
        self._at_horizon = at_horizon

    def step(self, action, alive):
        step = super().step(action, alive)
        is_last = self._at_horizon and len(self.stepped) == HORIZON
        ended = (step.terminated & ~step.fault) | is_last
        return dataclasses.replace(step, obs=np.where(ended[:, None], np.nan, step.obs))


def play(env):
    env.set_tasks(TASKS, 4)
    return rollout(env, Gain(), Gain().begin(len(TASKS), 4), KEY, 0, (len(TASKS), 4))[0]


def test_last_observation_that_is_not_finite_is_named():
    played = play(EndsInNan(False))
    assert played.last_obs[played.terminated].isnan().all() and played.terminated.any()
    assert played.last_obs[~played.terminated].isfinite().all()
    expected = play(RobotBatch())
    going_on = expected.valid[:, :, -1] & ~expected.terminated
    task, episode = going_on.nonzero()[0].tolist()
    message = f"task {task}, episode {episode}, after step 11: the environment gave obs nan and"
    with pytest.raises(EnvironmentContractError, match=message):
        play(EndsInNan(True))
