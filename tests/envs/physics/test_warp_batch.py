"""Physics by MuJoCo Warp, against MuJoCo's own."""

import json
from contextlib import closing

import mujoco
import numpy as np
import pytest
from commands import QUIET, read_records

from metarl.cli import train
from metarl.core.env import UnsupportedHere
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.physics.warp_batch import WarpBatch
from metarl.envs.registry import make
from metarl.runs import checkpoint
from metarl.runs.logger import without_time

pytest.importorskip("mujoco_warp", reason="MuJoCo Warp is an optional package: the extra [warp]")

SMALL = "--sampler.num-tasks 2 --sampler.num-episodes 2 --learner.hidden-sizes 8".split()


def streams(count):
    return [np.random.default_rng(i) for i in range(count)]


def play(env, steps, rows=6, seed=1):
    """Plays random actions in the first tasks; returns observations and rewards of all steps."""
    tasks = env.spec.tasks.sample(np.random.default_rng(0), rows)
    env.set_tasks(tasks, 1)
    found, rng = [(env.reset(streams(rows)).copy(), np.zeros(rows))], np.random.default_rng(seed)
    for _ in range(steps):
        action = 0.3 * rng.standard_normal((rows, env.spec.action_size))
        step = env.step(action, np.ones(rows, dtype=bool))
        assert not step.fault.any()
        found.append((step.obs.copy(), step.reward.copy()))
    return [np.array(each) for each in zip(*found, strict=True)]


def compare(name, steps):
    """Returns the largest differences of observations and rewards between both physics."""
    with closing(make(name, 1)) as env, closing(make(name, 1).on_warp()) as other:
        pairs = zip(play(env, steps), play(other, steps), strict=True)
        return [float(np.abs(mine - others).max()) for mine, others in pairs]


@pytest.mark.parametrize("name", ["half-cheetah-dir", "hopper-dir", "quadruped-command"])
def test_steps_are_those_of_mujoco_up_to_rounding(name):
    obs, reward = compare(name, 5)
    assert obs <= 1e-3 and reward <= 2e-5


@pytest.fixture
def elliptic(monkeypatch):
    """Elliptic cones: Warp turns the pyramids of a capsule's contact with a plane."""
    compile_model = Recipe.compile_model

    def compile_elliptic(recipe):
        model = compile_model(recipe)
        model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        return model

    monkeypatch.setattr(Recipe, "compile_model", compile_elliptic)


VARIATIONS = ("params", "friction", "payload", "com", "gravity", "wind", "joint", "weak", "push")


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.usefixtures("elliptic")
def test_variations_change_what_they_change_in_mujoco(variation):
    obs, reward = compare(f"ant-{variation}", 5)
    assert obs <= 3e-4 and reward <= 2e-5


@pytest.mark.usefixtures("elliptic")
def test_limb_that_locks_in_mid_episode_does_so():
    """As stiff as MuJoCo allows, so rounding weighs more."""
    obs, reward = compare("ant-locked", 5)
    assert obs <= 5e-3 and reward <= 2e-4


def test_rows_at_rest_keep_their_state_as_others_restart():
    with closing(make("half-cheetah-dir", 1).on_warp()) as env:
        env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 2), 2)
        env.reset(streams(4))
        alive, action = np.array([True, False, True, False]), np.ones((4, 6))
        before = env._qpos.copy(), env._qvel.copy()
        env.step(action, alive)
        for mine, others in zip(before, (env._qpos, env._qvel), strict=True):
            assert np.array_equal(mine[~alive], others[~alive])
            assert (mine[alive] != others[alive]).all(axis=1).all()
        kept = env._qpos.copy()
        env.reset_rows(alive, streams(2))
        assert np.array_equal(env._qpos[~alive], kept[~alive])
        first = env.robot.initial_state(np.random.default_rng(0), env._rest)
        assert np.array_equal(env._qpos[0], first[0]) and np.array_equal(env._qvel[0], first[1])


def test_episodes_repeat_bit_for_bit():
    found = []
    for _ in range(2):
        with closing(make("ant-dir", 1).on_warp()) as env:
            found.append(play(env, 20))
    for mine, others in zip(*found, strict=True):
        assert np.array_equal(mine, others)


@pytest.mark.usefixtures("elliptic")
def test_contact_forces_are_those_of_mujoco():
    """They are those before the last substep."""
    with closing(make("ant-dir/promp", 1)) as env, closing(make("ant-dir/promp", 1)) as plain:
        other = plain.on_warp()
        play(env, 5)
        play(other, 5)
        mine, others = (each._batch.bind("cfrc_ext") for each in (env, other))
        assert np.abs(mine).max() > 1.0
        assert np.abs(mine - others).max() <= 1e-3 * np.abs(mine).max()


def test_more_constraints_than_memory_are_a_fault():
    with closing(make("quadruped-command", 1).on_warp()) as env:
        env.set_tasks(np.zeros((1, 0)), 2)
        batch = env._batch
        batch._data = batch._engine.make_data(batch._source, nworld=2, njmax=1)
        env.reset(streams(2))
        steps = [env.step(np.zeros((2, 12)), np.ones(2, dtype=bool)) for _ in range(3)]
    assert any(step.fault.all() for step in steps)


def test_solver_that_stops_at_its_limit_is_no_fault(monkeypatch):
    compile_model = Recipe.compile_model

    def compile_hasty(recipe):
        model = compile_model(recipe)
        model.opt.iterations, model.opt.ls_iterations = 1, 5
        return model

    monkeypatch.setattr(Recipe, "compile_model", compile_hasty)
    with closing(make("half-cheetah-dir", 1).on_warp()) as env:
        play(env, 20)


def test_model_with_delays_of_its_own_is_refused():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint name='j'/><geom size='1'/></body></worldbody><actuator>"
        "<motor joint='j' delay='0.01' nsample='8'/></actuator></mujoco>"
    )
    assert model.nhistory
    with pytest.raises(UnsupportedHere, match="delays of its actuators or sensors are not kept"):
        WarpBatch(model, 2)


def test_kernels_are_compiled_in_silence(capfd):
    with closing(make("hopper-dir", 1).on_warp()) as env:
        play(env, 2)
    out, err = capfd.readouterr()
    assert out == "" and "Module" not in err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("humanoid-dir", "Warp cannot simulate it: mjSOL_PGS is unsupported"),
        ("half-cheetah-terrain", "Warp gives no simulation a ground of its own shape"),
    ],
)
def test_what_warp_cannot_express_is_refused(name, reason):
    with pytest.raises(UnsupportedHere, match=reason):
        make(name, 1).on_warp()


def test_interface_is_that_of_a_batch():
    env = make("half-cheetah-dir", 1).on_warp()
    assert isinstance(env, MujocoBatchEnv)
    with pytest.raises(ValueError, match="call `forward` after a reset"):
        env._batch.reset(stage=mujoco.mjtStage.mjSTAGE_POS)
    with pytest.raises(UnsupportedHere, match="Warp does not compute flexvert_xpos_x"):
        env._batch.bind("flexvert_xpos_x")


def test_training_that_was_resumed_is_that_of_one_piece(tmp_path):
    options = ["--env", "half-cheetah-dir", "--sampler.physics", "warp", *SMALL, *QUIET]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main([*options, "--iterations", "3", "--run-dir", str(whole)]) == 0
    assert train.main([*options, "--iterations", "1", "--run-dir", str(parts)]) == 0
    assert train.main(["--resume", str(parts), "--iterations", "3"]) == 0
    records = [[without_time(r) for r in read_records(run)] for run in (whole, parts)]
    assert records[0] == records[1] and len(records[0]) == 3
    states = [checkpoint.load_newest(run / "checkpoints").tensors for run in (whole, parts)]
    assert all(np.array_equal(v, states[1][n]) for n, v in states[0].items())
    assert "warp" in json.loads((parts / "run.json").read_text())["physics"]
