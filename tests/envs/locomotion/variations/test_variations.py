"""Variations: each changes the physics as documented, per task, and leaves no state behind."""

import mujoco
import numpy as np
import pytest
from mujoco_runs import assert_same_alone, build, momentum, run, streams

from metarl.envs.locomotion.goals.hidden import RewardTerms, Velocity
from metarl.envs.locomotion.variations import (
    VARIATIONS,
    Actuator,
    Cripple,
    Friction,
    Gravity,
    Params,
    Payload,
    Wind,
)
from metarl.envs.robots.included.gymnasium import (
    ANT,
    HALF_CHEETAH,
    HOPPER,
    ROBOTS,
    WALKER2D,
)
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.robot import bare_model

FOR_ALL = {name: each for name, each in VARIATIONS.items() if not each.needs_servos}
every_variation = pytest.mark.parametrize("name", FOR_ALL)
G = 9.81


def commands(env, steps, rows, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (steps, rows, env.spec.action_size))


def in_the_air(env, tasks, *, speed=0.0):
    """Starts an episode per task, high above the ground, with a speed along x only."""
    env.set_tasks(np.array(tasks, dtype=float), 1)
    qpos = np.tile(env.model.qpos0, (len(tasks), 1))
    qpos[:, env.robot.height_index] += 500.0
    qvel = np.zeros((len(tasks), env.model.nv))
    qvel[:, 0] = speed
    env.restore(qpos, qvel)


def mixed_tasks(env, count, seed=0):
    """Returns training and test tasks, alternating."""
    tasks, rng = env.spec.tasks, np.random.default_rng(seed)
    both = tasks.sample(rng, count), tasks.test.sample(rng, count)
    return np.stack(both, axis=1).reshape(2 * count, -1)[:count]


# --- single variations


def test_params_multiply_every_element_by_its_own_draw():
    env = build(WALKER2D, Params())
    names = [v.name for v in env.spec.tasks.variables]
    assert len(set(names)) == len(names) == 7 + 21 + 8 + 6
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 3)
    env.set_tasks(tasks, 1)
    bare = bare_model(WALKER2D)
    column = {name: k for k, name in enumerate(names)}
    for row in range(3):
        model = env._batch.get_model(row)
        for body in range(1, bare.nbody):
            word = bare.body(body).name
            factor = 1.5 ** tasks[row, column[f"mass {word}"]]
            assert model.body_mass[body] == pytest.approx(factor * bare.body_mass[body])
            for k, axis in enumerate("xyz"):
                factor = 1.5 ** tasks[row, column[f"inertia {word} {axis}"]]
                expected = factor * bare.body_inertia[body, k]
                assert model.body_inertia[body, k] == pytest.approx(expected)
        for geom in range(bare.ngeom):
            factor = 1.5 ** tasks[row, column[f"friction {bare.geom(geom).name}"]]
            assert model.geom_friction[geom, 0] == pytest.approx(
                factor * bare.geom_friction[geom, 0]
            )
        for dof in np.flatnonzero(bare.dof_damping):
            factor = 1.3 ** tasks[row, column[f"damping {bare.joint(int(dof)).name}"]]
            assert model.dof_damping[dof] == pytest.approx(factor * bare.dof_damping[dof])


@pytest.mark.parametrize("robot", [WALKER2D, HOPPER], ids=lambda robot: robot.name)
def test_params_equal_a_model_edited_by_hand(robot):
    env = build(robot, Params())
    tasks = env.spec.tasks.sample(np.random.default_rng(1), 3)
    env.set_tasks(tasks, 1)
    env.reset(streams(3))
    start = env.snapshot(), env._qvel.copy()
    actions = commands(env, 50, 3)
    record = run(env, actions)
    models = [env._batch.get_model(row) for row in range(3)]
    for row in range(3):
        model = robot.model()
        bodies, geoms = model.nbody - 1, model.ngeom
        mass, inertia, friction, damping = np.split(
            tasks[row], [bodies, 4 * bodies, 4 * bodies + geoms]
        )
        model.body_mass[1:] *= 1.5**mass
        model.body_inertia[1:] *= 1.5 ** inertia.reshape(-1, 3)
        model.geom_friction[:, 0] *= 1.5**friction
        model.dof_damping[model.dof_damping > 0] *= 1.3**damping
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        for field in ("body_invweight0", "dof_invweight0", "body_subtreemass"):
            np.testing.assert_array_equal(getattr(models[row], field), getattr(model, field))
        data.qpos[:], data.qvel[:] = start[0][row], start[1][row]
        mujoco.mj_forward(model, data)
        for t in range(50):
            data.ctrl[:] = actions[t, row]
            mujoco.mj_step(model, data, robot.frame_skip)
            np.testing.assert_array_equal(record["qpos"][t, row], data.qpos)


def test_friction_brakes_sliding_robots_by_coulombs_law():
    friction = np.array([[0.08], [0.3], [0.8]])
    env = build(ANT, Friction())
    env.set_tasks(friction, 1)
    env.restore(np.tile(env.model.qpos0, (3, 1)), np.zeros((3, 14)))
    still = np.zeros((80, 3, 8))
    qvel = run(env, still)["qvel"][-1]  # until it stands on its feet
    # along the legs, where MuJoCo's pyramidal friction cone has its edges
    qvel[:, :2] += 4.0
    env.restore(env.snapshot(), qvel)
    before = [momentum(env, row) for row in range(3)]
    run(env, still[:10])
    for row in range(3):
        mass, start = before[row]
        lost = mass * (start - momentum(env, row)[1])
        # Coulomb: the horizontal impulse of the ground is mu times its vertical one, with bounces
        normal = mass * G * 10 * env.spec.dt - lost[2]
        np.testing.assert_allclose(np.hypot(*lost[:2]) / normal, friction[row, 0], rtol=0.02)


def test_friction_of_the_model_itself_changes_nothing():
    # geoms of HalfCheetah's model have friction 0.4, its ground too
    paths = []
    for variations, tasks in (((), np.zeros((2, 0))), ((Friction(),), np.full((2, 1), 0.4))):
        env = build(HALF_CHEETAH, *variations)
        env.set_tasks(tasks, 1)
        env.reset(streams(2))
        paths.append(run(env, commands(env, 60, 2))["qpos"])
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize("robot", [*ROBOTS.values(), QUADRUPED], ids=lambda robot: robot.name)
def test_payload_adds_its_mass_at_its_position(robot):
    env = build(robot, Payload())
    place = [0.1] if robot.planar else [0.1, -0.2]
    env.set_tasks(np.array([[0.0, *place], [0.5, *place], [1.0, *place]]), 1)
    bare = bare_model(robot)
    own, torso = bare.body_mass.sum(), bare.body_mass[1]
    for row, share in enumerate((0.0, 0.5, 1.0)):
        model = env._batch.get_model(row)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        assert model.body_subtreemass[0] == pytest.approx(own + share * torso)
        ball = data.xpos[model.body("payload").id] - data.xpos[1]
        np.testing.assert_allclose(ball[: len(place)], place, atol=1e-12)
        # on top of the torso's geoms
        assert ball[2] > 0.06
        rest = mujoco.MjData(bare)
        mujoco.mj_forward(bare, rest)
        moved = (own * rest.subtree_com[0] + share * torso * (data.xpos[1] + ball)) / (
            own + share * torso
        )
        np.testing.assert_allclose(data.subtree_com[0], moved, atol=1e-9)


def test_gravity_accelerates_robots_by_its_vector():
    env = build(ANT, Gravity())
    tilt = np.radians(15.0)
    in_the_air(env, [[G, 0.0, 0.0], [8.0, 0.0, 1.0], [10.0, tilt, 0.0], [10.0, tilt, np.pi / 2]])
    run(env, np.zeros((8, 4, 8)))
    seconds = 8 * env.spec.dt
    sine, cosine = 10.0 * np.sin(tilt), 10.0 * np.cos(tilt)
    expected = [[0, 0, -G], [0, 0, -8.0], [sine, 0, -cosine], [0, sine, -cosine]]
    for row in range(4):
        change = momentum(env, row)[1] / seconds
        np.testing.assert_allclose(change, expected[row], atol=5e-3)


def test_gravity_tilts_planar_robots_forward_and_backward():
    env = build(HALF_CHEETAH, Gravity())
    in_the_air(env, [[10.0, 0.2], [10.0, -0.2]])
    run(env, np.zeros((4, 2, 6)))
    forward, backward = (momentum(env, row)[1][0] / (4 * env.spec.dt) for row in (0, 1))
    assert forward == pytest.approx(10.0 * np.sin(0.2), rel=1e-3)
    assert backward == pytest.approx(-forward, rel=1e-3)


def test_wind_accelerates_the_total_mass_with_its_force():
    env = build(ANT, Payload(), Wind())
    own, torso = bare_model(ANT).body_mass.sum(), bare_model(ANT).body_mass[1]
    in_the_air(env, [[0, 0, 0, 0, 0], [0, 0, 0, 1.5, 0], [0, 0, 0, 0, -1.0], [1, 0.1, 0, 1.5, 0]])
    for _ in range(2):  # a reset keeps the force
        env.restore(env.snapshot(), np.zeros((4, env.model.nv)))
        run(env, np.zeros((4, 4, 8)))
        seconds = 4 * env.spec.dt
        change = np.array([momentum(env, row)[1] for row in range(4)]) / seconds
        heavy = 1.5 / (own + torso)
        expected = [[0, 0], [1.5 / own, 0], [0, -1.0 / own], [heavy, 0]]
        np.testing.assert_allclose(change[:, :2], expected, atol=5e-3)
        np.testing.assert_allclose(change[:, 2], -G, atol=5e-3)


def test_cripple_disables_one_limb_only():
    env = build(ANT, Cripple())
    legs = [(2, 3), (4, 5), (6, 7), (0, 1)]
    for leg, actuators in enumerate(legs):
        for joint in (f"hip_{leg + 1}", f"ankle_{leg + 1}"):
            moved = int(
                env.model.actuator_trnid[list(actuators), 0]
                .tolist()
                .count(env.model.joint(joint).id)
            )
            assert moved == 1
        in_the_air(env, [[leg, 0.0]] * 9)
        actions = np.zeros((3, 9, 8))
        actions[:, np.arange(8), np.arange(8)] = 1.0  # row k uses actuator k, the last row none
        qpos = run(env, actions)["qpos"]
        still = [k for k in range(8) if np.array_equal(qpos[:, k], qpos[:, 8])]
        assert still == sorted(actuators)


def test_cripple_fails_at_its_onset_in_every_episode():
    env = build(ANT, Cripple())
    tasks = np.array([[1.0, 30.0], [1.0, 1000.0]])
    failing, intact = 0, 1
    actions = commands(env, 40, 1).repeat(2, axis=1)
    in_the_air(env, tasks)
    start = env.snapshot()
    for _ in range(2):
        env.restore(start, np.zeros((2, env.model.nv)))
        qpos = run(env, actions)["qpos"]
        np.testing.assert_array_equal(qpos[:30, failing], qpos[:30, intact])
        assert not np.array_equal(qpos[30, failing], qpos[30, intact])
    # after the failure the limb moves like one without controls
    in_the_air(env, tasks)
    actions[30:, intact, [4, 5]] = 0.0
    qpos = run(env, actions)["qpos"]
    np.testing.assert_array_equal(qpos[:, failing], qpos[:, intact])


def test_actuator_scales_and_delays_the_controls():
    env, plain = build(HOPPER, Actuator()), build(HOPPER)
    actions = commands(env, 30, 1)
    tasks = [[1, 1, 1, delay] for delay in range(4)] + [[0.5, 1.0, 1.5, 0], [0.5, 1.0, 0.5, 2]]
    in_the_air(env, tasks)
    qpos = run(env, actions.repeat(6, axis=1))["qpos"]
    in_the_air(plain, [[]] * 6)
    expected = np.zeros((30, 6, 3))
    for row, (*gears, delay) in enumerate(tasks):
        expected[delay:, row] = np.array(gears) * actions[: 30 - delay, 0]
    expected[:, 4, 2] = np.clip(expected[:, 4, 2], -1.0, 1.0)
    reference = run(plain, expected)["qpos"]
    same = [0, 1, 2, 3, 5]  # a gear of 1.5 exceeds the range of the plain robot's controls
    np.testing.assert_array_equal(qpos[:, same], reference[:, same])
    in_the_air(env, [[1.5, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    actions = np.full((2, 2, 3), 0.4)
    actions[:, 1, 0] *= 1.5
    qpos = run(env, actions)["qpos"]
    np.testing.assert_allclose(qpos[:, 0], qpos[:, 1], rtol=0, atol=1e-12)


def test_control_cost_uses_the_sent_action():
    for variation, task in ((Actuator(), [1, 1, 1, 3]), (Cripple(), [0, 0])):
        env = build(HOPPER, variation, terms=RewardTerms(control_cost=1.0))
        in_the_air(env, [task])
        position = env.snapshot()[0, 0]
        reward = env.step(np.full((1, 3), 0.5), np.ones(1, dtype=bool)).reward[0]
        speed = (env.snapshot()[0, 0] - position) / env.spec.dt
        assert reward == pytest.approx(speed - 3 * 0.25)


# --- all variations


def all_variations():
    robots = [(ANT, FOR_ALL), (HALF_CHEETAH, FOR_ALL), (QUADRUPED, VARIATIONS)]
    return [build(robot, *variations.values()) for robot, variations in robots]


def environments(name):
    robots = (ANT, HALF_CHEETAH) if name in FOR_ALL else (QUADRUPED,)
    return [build(robot, VARIATIONS[name]) for robot in robots]


ALL = [*VARIATIONS, "all"]


@pytest.mark.parametrize("name", ALL)
def test_batch_of_tasks_equals_each_task_alone(name):
    for env in all_variations() if name == "all" else environments(name):
        tasks = mixed_tasks(env, 4)
        actions = 2.0 * commands(env, 40, 8)
        env.set_tasks(tasks, 2)
        first = env.reset(streams(8)).copy()
        record = run(env, actions)
        assert not np.array_equal(record["qpos"][:, 0], record["qpos"][:, 2])
        alone = build(env.robot, *env.variations)
        assert_same_alone(alone, tasks, actions, first, record, range(4))


@pytest.mark.parametrize("name", ALL)
def test_set_tasks_clears_the_previous_tasks(name):
    for env in all_variations() if name == "all" else environments(name):
        tasks, others = mixed_tasks(env, 3), mixed_tasks(env, 3, seed=9)
        actions = 2.0 * commands(env, 30, 3)
        env.set_tasks(tasks, 1)
        first = env.reset(streams(3)).copy()
        expected = run(env, actions)
        used = build(env.robot, *env.variations, threads=2)
        for old in (others, tasks[::-1]):
            used.set_tasks(old, 1)
            used.reset(streams(3))
            run(used, 3.0 * commands(used, 25, 3, seed=5))
        used.set_tasks(tasks, 1)
        np.testing.assert_array_equal(used.reset(streams(3)), first)
        record = run(used, actions)
        for key, values in expected.items():
            np.testing.assert_array_equal(record[key], values, err_msg=key)


def test_goal_numbers_come_first_and_reward_uses_only_them():
    env = build(HALF_CHEETAH, Friction(), Wind(), goal=Velocity())
    assert [v.name for v in env.spec.tasks.variables] == ["speed", "friction", "wind_x"]
    env.set_tasks(np.array([[2.0, 0.5, 3.0]]), 1)
    env.reset(streams(1))
    before = env.snapshot()[0, 0]
    reward = env.step(np.zeros((1, 6)), np.ones(1, dtype=bool)).reward[0]
    assert reward == pytest.approx(-abs((env.snapshot()[0, 0] - before) / 0.05 - 2.0))
    assert env.marker(np.array([2.0, 0.5, 3.0])).vector == (2.0, 0.0)


# --- held-out tasks


def test_held_out_tasks_lie_outside_the_training_ranges():
    rng = np.random.default_rng(0)
    friction = Friction().tasks(ANT)
    train, test = (d.sample(rng, 2000)[:, 0] for d in (friction, friction.test))
    assert 0.2 <= train.min() < 0.21 and 1.45 < train.max() <= 1.5
    outside = (test <= 0.2) | (test >= 1.5)
    assert outside.all() and (test < 0.2).mean() == 0.5 and 0.08 <= test.min() < 0.082
    # uniform in log: as many below as above the geometric mean
    assert (train < np.sqrt(0.2 * 1.5)).mean() == pytest.approx(0.5, abs=0.05)
    for robot in (ANT, HALF_CHEETAH):
        gravity = Gravity().tasks(robot)
        train, test = (np.abs(d.sample(rng, 500)[:, 1]) for d in (gravity, gravity.test))
        assert train.max() <= np.radians(10) <= test.min() and test.max() <= np.radians(20)
        cripple = Cripple().tasks(robot)
        train, test = (d.sample(rng, 100) for d in (cripple, cripple.test))
        last = 3 if robot is ANT else 5
        assert set(train[:, 0]) == set(range(last)) and set(test[:, 0]) == {last}
        late = np.concatenate([train, test])[:, 1]
        assert 0.1 < (late > 0).mean() < 0.4
        assert set(late[late > 0]) <= set(range(20, 101))
    assert all(v.tasks(QUADRUPED).held_out for v in VARIATIONS.values())
    assert Params().task_split == (40, 10)
