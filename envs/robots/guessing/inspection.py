"""A trial of a robot: standing, the joints that its actuators move, and speed."""

from __future__ import annotations

import time

import mujoco
import numpy as np

from metarl.envs.robots.arms.effector import find_effector
from metarl.envs.robots.compiling import collect_warnings
from metarl.envs.robots.health import STANDING, has_diverged, make_step, start_at_home
from metarl.envs.robots.robot import Robot

WARNING = "warning: "
"""Beginning of a finding that may be a mistake."""

RANDOM_STEPS = 1000
"""Control steps with random actions in which MuJoCo should warn of nothing."""

SPARSE_FROM = 60
"""Degrees of freedom from which MuJoCo's Jacobian is sparse, if the model leaves it the choice."""


def inspect_robot(robot: Robot) -> list[str]:
    """Returns the findings, one line each."""
    model = robot.model()
    with collect_warnings():  # MuJoCo would print them, and write a file
        return _describe(robot, model)


def _describe(robot: Robot, model: mujoco.MjModel) -> list[str]:
    findings = [
        _describe_standing(robot, model),
        _describe_actuators(robot, model),
        _speed(robot, model),
    ]
    return [*findings, *filter(None, [describe_solver(model, mujoco.__version__)])]


def describe_solver(model: mujoco.MjModel, version: str) -> str:
    """Returns a warning if MuJoCo of this version solves the model's contacts wrongly, else "".

    With a sparse Jacobian the Newton solver of MuJoCo 4.0.0 has a wrong Hessian.
    """
    kinds = mujoco.mjtJacobian
    is_large = model.opt.jacobian == kinds.mjJAC_AUTO and model.nv >= SPARSE_FROM
    is_sparse = is_large or model.opt.jacobian == kinds.mjJAC_SPARSE
    if version != "4.0.0" or not is_sparse or model.opt.solver != mujoco.mjtSolver.mjSOL_NEWTON:
        return ""
    hint = 'use MuJoCo 4.0.1, or <option jacobian="dense"/>'
    return f"{WARNING}MuJoCo 4.0.0 solves contacts wrongly with a sparse Jacobian; {hint}"


def _describe_standing(robot: Robot, model: mujoco.MjModel) -> str:
    data = start_at_home(robot, model)
    start = _effector_position(robot, model, data)
    while data.time < STANDING:
        is_healthy = make_step(robot, model, data)
        if has_diverged(data):
            return f"{WARNING}diverges in its home pose: try a smaller timestep"
        if not is_healthy:
            text = f"falls {data.time:.2f} s after its home pose, without an action"
            return f"{WARNING}{text}: its policy must learn to balance"
    if robot.fixed:
        sag = 1000.0 * np.linalg.norm(_effector_position(robot, model, data) - start)
        return f"after {STANDING:g} s without an action, {robot.effector} is {sag:.0f} mm from home"
    drop = robot.rest()[robot.height_index] - data.qpos[robot.height_index]
    side = "below" if drop >= 0.0 else "above"
    return (
        f"stands {STANDING:g} s without an action, {abs(1000 * drop):.0f} mm {side} its home pose"
    )


def _effector_position(robot: Robot, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Returns the place (3,) [m] of an arm's end effector; zeros for other robots."""
    effector = find_effector(model, robot.effector)
    if effector is None:
        return np.zeros(3)
    mujoco.mj_kinematics(model, data)
    return effector.position(data)


def _describe_actuators(robot: Robot, model: mujoco.MjModel) -> str:
    """Names the actuators that move no joint of the hanging robot."""
    idle = []
    scales = np.broadcast_to(robot.action_scale, model.nu)
    for actuator in range(model.nu):
        ends = []
        for direction in (0.0, 0.5):
            data = start_at_home(robot, model, height=10.0)
            data.ctrl[actuator] += direction * scales[actuator]
            for _ in range(5):
                make_step(robot, model, data)
            ends.append(data.qpos.copy())
        joints = slice(0 if robot.fixed else 3 if robot.planar else 7, None)
        moved = np.abs(ends[1] - ends[0])
        if (moved[joints] if moved[joints].size else moved).max() < 1e-3:
            idle.append(model.actuator(actuator).name)
    if idle:
        return f"actuators that move no joint by 0.001 in 5 control steps: {', '.join(idle)}"
    return f"each of the {model.nu} actuators moves a joint"


def _speed(robot: Robot, model: mujoco.MjModel) -> str:
    """Returns the speed of random control steps, and MuJoCo's warnings in them."""
    data, rng = start_at_home(robot, model), np.random.default_rng(0)
    scales, before = np.broadcast_to(robot.action_scale, model.nu), time.perf_counter()
    for _ in range(RANDOM_STEPS):
        output = rng.uniform(-1.0, 1.0, model.nu)
        data.ctrl[:] = np.array(robot.action_centre or 0.0) + scales * output
        make_step(robot, model, data)
    rate = RANDOM_STEPS / (time.perf_counter() - before)
    geoms = int(((model.geom_contype > 0) | (model.geom_conaffinity > 0)).sum())
    text = f"{rate:,.0f} control steps/s on one thread, {geoms} geoms that can collide"
    if warnings := sum(int(warning.number) for warning in data.warning):
        many = f"{warnings} warnings of MuJoCo in {RANDOM_STEPS:,} random steps"
        return f"{WARNING}{many}: it may diverge; {text}"
    return f"{text}; no warning of MuJoCo in {RANDOM_STEPS:,} random steps"
