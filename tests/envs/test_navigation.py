import numpy as np
import pytest

from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.envs.registry import make

DENSE, SPARSE = "navigation-2d", "navigation-2d-sparse"


def start(name, tasks, num_episodes=1):
    env = make(name)
    env.set_tasks(np.array(tasks, dtype=float), num_episodes)
    obs = env.reset(streams(len(tasks) * num_episodes))
    return env, obs


def streams(count):
    return [np.random.default_rng(i) for i in range(count)]


def walk(env, action, alive=None):
    action = np.array(action, dtype=float)
    return env.step(action, np.ones(len(action), dtype=bool) if alive is None else alive)


def test_reset_starts_at_the_origin():
    env, obs = start(DENSE, [[0.3, 0.4]], num_episodes=3)
    np.testing.assert_array_equal(obs, np.zeros((3, 2)))
    walk(env, np.full((3, 2), 0.1))
    np.testing.assert_array_equal(env.reset(streams(3)), np.zeros((3, 2)))


def test_action_is_clipped_to_a_tenth():
    env, _ = start(DENSE, [[0.3, 0.4]] * 2)
    step = walk(env, [[5.0, -0.03], [-0.2, 0.1]])
    np.testing.assert_allclose(step.obs, [[0.1, -0.03], [-0.1, 0.1]], rtol=1e-15)


def test_sparse_form_moves_by_a_tenth_of_the_action():
    env, _ = start(SPARSE, [[0.0]] * 2)
    step = walk(env, [[0.5, -0.25], [3.0, -2.0]])
    np.testing.assert_allclose(step.obs, [[0.05, -0.025], [0.1, -0.1]], rtol=1e-15)


def test_reward_is_minus_the_distance_after_the_move():
    env, _ = start(DENSE, [[0.3, 0.4], [0.4, 0.4]])
    step = walk(env, [[0.0, 0.0], [0.1, 0.0]])
    # both are 3-4-5 triangles: from the origin, and from (0.1, 0) to (0.4, 0.4)
    np.testing.assert_allclose(step.reward, [-0.5, -0.5])


def test_episode_ends_within_a_hundredth_of_the_goal():
    # after a move of 0.1: distances 0.005, 0.02 and 0.0099
    env, _ = start(DENSE, [[0.105, 0.0], [0.12, 0.0], [0.1, 0.0099]])
    step = walk(env, [[0.1, 0.0]] * 3)
    np.testing.assert_array_equal(step.terminated, [True, False, True])
    np.testing.assert_allclose(step.reward, [-0.005, -0.02, -0.0099])
    assert not step.fault.any()


def test_passing_the_goal_does_not_end_the_episode():
    env, _ = start(DENSE, [[0.05, 0.0]])
    assert not walk(env, [[0.1, 0.0]]).terminated[0]


def test_sparse_reward_begins_within_a_fifth_of_the_goal():
    # goals at (1, 0), (0, 1), (-1, 0) on the half circle, approached along the axes
    env, _ = start(SPARSE, [[0.0], [np.pi / 2], [np.pi]])
    rewards, ended = [], False
    for _ in range(11):
        step = walk(env, [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        rewards.append(step.reward)
        ended |= step.terminated.any()
    rewards = np.array(rewards)
    np.testing.assert_array_equal(rewards[:7], 0.0)  # 0.3 or more from the goal
    for row in range(3):  # 0.1 before the goal, at the goal, 0.1 behind it
        np.testing.assert_allclose(rewards[8:, row], [0.9, 1.0, 0.9])
    assert not ended


def test_row_that_is_not_alive_keeps_its_state():
    env, _ = start(DENSE, [[0.3, 0.4]] * 3)
    walk(env, [[0.05, 0.0]] * 3)
    step = walk(env, [[0.1, 0.1]] * 3, alive=np.array([True, False, True]))
    np.testing.assert_allclose(step.obs, [[0.15, 0.1], [0.05, 0.0], [0.15, 0.1]])
    assert step.reward[1] == 0.0 and not step.terminated[1]


@pytest.mark.parametrize("name", [DENSE, SPARSE])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_action_is_a_fault_of_its_row_only(name, bad):
    size = 2 if name == DENSE else 1
    tasks = make(name).spec.tasks.sample(np.random.default_rng(0), 4)
    assert tasks.shape == (4, size)
    normal, faulty = (start(name, tasks)[0] for _ in range(2))
    action = np.random.default_rng(1).normal(size=(4, 2))
    expected = walk(normal, action)
    action[2, 1] = bad
    step = walk(faulty, action)
    others = [0, 1, 3]
    np.testing.assert_array_equal(step.fault, [False, False, True, False])
    np.testing.assert_array_equal(step.obs[others], expected.obs[others])
    np.testing.assert_array_equal(step.reward[others], expected.reward[others])
    assert step.reward[2] == 0.0 and not step.terminated[2]
    # the row keeps its state, and the next episode has no fault
    np.testing.assert_array_equal(step.obs[2], 0.0)
    faulty.reset(streams(4))
    step = walk(faulty, np.full((4, 2), 0.1))
    assert not step.fault.any() and np.isfinite(step.reward).all()


def test_step_does_not_depend_on_the_action_precision():
    action = np.random.default_rng(2).normal(size=(5, 2)).astype(np.float32)
    tasks = np.full((5, 1), 0.7)
    ends = []
    for dtype in (np.float32, np.float64):
        env, _ = start(SPARSE, tasks)
        ends.append(env.step(action.astype(dtype), np.ones(5, dtype=bool)).obs)
    np.testing.assert_array_equal(ends[0], ends[1])


def test_neighbouring_rows_share_a_task():
    env, _ = start(DENSE, [[0.3, 0.4], [-0.3, 0.0]], num_episodes=2)
    np.testing.assert_allclose(walk(env, np.zeros((4, 2))).reward, [-0.5, -0.5, -0.3, -0.3])


def test_floor_is_the_mean_distance_in_the_square():
    # midpoint rule on 400 x 400 cells of the square of goals
    axis = (np.arange(400) + 0.5) / 400 - 0.5
    x, y = np.meshgrid(axis, axis)
    floors = make(DENSE).spec.floors
    mean = -100 * np.hypot(x, y).mean()
    np.testing.assert_allclose(mean, -38.26, atol=0.005)
    np.testing.assert_allclose(floors["stand still"], mean, atol=1e-3)
    # the origin is the best constant position
    for place in [(0.05, 0.0), (0.0, -0.1), (0.2, 0.2)]:
        assert -100 * np.hypot(x - place[0], y - place[1]).mean() < floors["best without the task"]


def test_standing_still_earns_the_floor():
    env = make(DENSE)
    rng, num_tasks = np.random.default_rng(0), 20_000
    env.set_tasks(env.spec.tasks.sample(rng, num_tasks), 1)
    env.reset([rng] * num_tasks)
    alive, total = np.ones(num_tasks, dtype=bool), np.zeros(num_tasks)
    for _ in range(env.spec.horizon):
        step = env.step(np.zeros((num_tasks, 2)), alive)
        total += step.reward
        alive &= ~step.terminated
    # pi 0.01^2 of the goals are reached at once: at most 0.03 % of the return
    error = 5 * total.std() / np.sqrt(num_tasks) + 0.01
    np.testing.assert_allclose(total.mean(), env.spec.floors["stand still"], atol=error)


def test_standing_still_earns_nothing_in_the_sparse_form():
    env, _ = start(SPARSE, np.linspace(0.0, np.pi, 9)[:, None])
    step = walk(env, np.zeros((9, 2)))
    assert env.spec.floors["stand still"] == 0.0
    np.testing.assert_array_equal(step.reward, 0.0)


def test_sparse_form_claims_no_best_return_without_the_task():
    env, _ = start(SPARSE, np.linspace(0.0, np.pi, 999)[:, None])
    total = sum(walk(env, np.tile([0.0, float(t < 10)], (999, 1))).reward for t in range(100))
    assert total.mean() > 10.0  # more than of standing still
    assert list(env.spec.floors) == ["stand still"]


def test_sparse_goals_lie_on_the_half_circle():
    env = make(SPARSE)
    x, y = env.marker(np.array([2 * np.pi / 3])).vector
    np.testing.assert_allclose((x, y), (-0.5, np.sqrt(0.75)))
    assert env.marker(np.array([0.0])).kind == "target"


def test_snapshot_is_a_copy():
    env, _ = start(DENSE, [[0.3, 0.4]])
    before = env.snapshot()
    walk(env, [[0.1, 0.1]])
    np.testing.assert_array_equal(before, [[0.0, 0.0]])
    np.testing.assert_allclose(env.snapshot(), [[0.1, 0.1]])


def test_wrong_calls_are_named():
    env = NavigationEnv(DENSE, DenseGoal())
    with pytest.raises(RuntimeError, match="navigation-2d: call set_tasks before reset"):
        env.reset(streams(1))
    with pytest.raises(ValueError, match=r"navigation-2d: tasks must be finite and \(N, 2\)"):
        env.set_tasks(np.zeros((3, 1)), 1)
    with pytest.raises(ValueError, match="finite"):
        env.set_tasks(np.array([[np.nan, 0.0]]), 1)
    env.set_tasks(np.zeros((3, 2)), 2)
    with pytest.raises(ValueError, match="6 rows need as many streams, got 3"):
        env.reset(streams(3))
