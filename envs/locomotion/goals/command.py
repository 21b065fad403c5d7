"""Commands: velocities that a legged robot should follow, and the reward for following them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

from metarl.core.env import EnvSpec, Quantity
from metarl.core.tasks import TaskDistribution, Uniform
from metarl.envs.rendering.marker import Marker
from metarl.envs.robots.frames import rotation
from metarl.envs.robots.moments import find_moments
from metarl.envs.robots.observation import FootContacts
from metarl.envs.robots.robot import Reader, Robot, bare_model

SIZE = 3
"""Numbers of a command: speed forward and to the left [m/s], turn to the left [rad/s]."""

QUANTITIES = (
    Quantity("command: speed forward", "m/s"),
    Quantity("command: speed to the left", "m/s"),
    Quantity("command: turn to the left", "rad/s"),
)
"""Them, as a part of the observation."""

SOFT = 0.9
"""Share of the range of a joint around its middle within which it costs nothing."""

LONG = 0.5
"""Time in the air from which on a step of a foot earns something [s]."""

SLOW = 0.1
"""Commanded speed up to which steps of feet earn and cost nothing [m/s]."""

_SAMPLES = 20_000
"""Commands over which the reward of standing still is averaged."""


@dataclass(frozen=True)
class Command:
    """Follow a velocity that is observed and drawn anew from time to time.

    With e = command - motion in the axes of the base, a step earns
    exp(-|e_xy|^2 / s) + exp(-e_turn^2 / s) / 2, less costs of bobbing, rolling, jerky actions,
    torques and joints near their limits, and a bonus of long steps. The hidden part of the task is
    the world.

    Attributes:
        forward: Range of the speed forward [m/s].
        left: Range of the speed to the left [m/s].
        turn: Range of the turn to the left [rad/s].
        period: Time after which another command is drawn [s].
        rest: Probability that a command is to stand still.
        easiest: Share of the ranges that a curriculum begins with.
        width: s [(m/s)^2 or (rad/s)^2].
        bobbing: Weight of the squared vertical speed.
        rolling: Weight of the sum of squares of roll and pitch rates.
        jerk: Weight of the sum of squares of the change of the policy's clipped outputs.
        torque: Weight of the mean square of the actuators' forces in the last physics step, as
            shares of their limits; an actuator without one (a damper) counts nothing.
        limits: Weight of the sum of what joints are beyond SOFT of their ranges [rad or m].
        air_time: Weight of the sum, over feet that land, of their time in the air less LONG [s];
            none where the command is slower than SLOW. It needs `Robot.feet`.

    Source: the rewards of legged_gym (Rudin et al. 2022, arXiv:2109.11978), with our weights. Those
    of `limits` and `air_time` are zero but in files of robots (`Robot.command`), and a contact is
    one after the step, not one of the last two.
    """

    forward: tuple[float, float] = (-0.6, 1.0)
    left: tuple[float, float] = (-0.4, 0.4)
    turn: tuple[float, float] = (-1.0, 1.0)
    period: float = 2.0
    rest: float = 0.1
    easiest: float = 0.25
    width: float = 0.25
    bobbing: float = 0.5
    rolling: float = 0.02
    jerk: float = 0.005
    torque: float = 0.2
    limits: float = 0.0
    air_time: float = 0.0
    tasks: TaskDistribution = field(default_factory=lambda: Uniform((), held_out=False))

    @property
    def formula(self) -> str:
        """The reward as text: e is command - motion, w roll and pitch rates, f share of force."""
        return (
            f"exp(-|e_xy|^2/{self.width:g}) + 0.5 exp(-e_turn^2/{self.width:g}) "
            f"- {self.bobbing:g} v_z^2 - {self.rolling:g} |w|^2 - {self.jerk:g} |da|^2 "
            f"- {self.torque:g} mean f^2"
            + (f" - {self.limits:g} sum excess" if self.limits else "")
            + (f" + {self.air_time:g} sum (t_air - {LONG:g})" if self.air_time else "")
        )

    @property
    def least_bonus(self) -> float:
        """The largest cost of the torques of a robot that stands; see `Objective`."""
        return self.torque

    def draw(self, rng: np.random.Generator, count: int, level: float = 1.0) -> np.ndarray:
        """Draws commands (count, 3) of an episode from its stream; below level 1 slower ones."""
        low, high = np.array([self.forward, self.left, self.turn]).T
        commands = rng.uniform(low, high, (count, SIZE))
        commands[rng.uniform(size=count) < self.rest] = 0.0
        return commands * (level + (1.0 - level) * self.easiest)

    def tracking(self, command: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """Maps commands and motions (M, 3) to the rewards (M,) for following, at most 1.5."""
        error = np.square(command - motion)
        straight = np.exp(-(error[:, 0] + error[:, 1]) / self.width)
        return straight + 0.5 * np.exp(-error[:, 2] / self.width)

    def floors(self) -> dict[str, float]:
        """Returns the reward of standing still."""
        commands = self.draw(np.random.default_rng(0), _SAMPLES)
        return {"stand still": float(self.tracking(commands, np.zeros(SIZE)).mean())}

    def marker(self, task: np.ndarray) -> Marker:
        """Returns no arrow: the command changes within an episode."""
        return Marker("arrow", (0.0, 0.0))


def find_force_limits(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest force of every actuator (A,), and that which its joint lets through (A,).

    The largest is its own limit or that of its joint, else that over its controls; of a damper,
    whose force depends on the speed, it is infinite.
    """
    reach = np.abs(model.actuator_ctrlrange).max(axis=1)
    is_motor = (model.actuator_biasprm == 0.0).all(axis=1)
    half = 0.5 * np.ptp(model.actuator_ctrlrange, axis=1)
    free = np.abs(model.actuator_gainprm[:, 0]) * np.where(is_motor, reach, half)
    is_known = (model.actuator_gaintype == mujoco.mjtGain.mjGAIN_FIXED) & (free > 0.0)
    limits = np.abs(model.actuator_forcerange).max(axis=1)
    own = np.where(limits > 0.0, limits, np.where(is_known, free, np.inf))
    cut = _find_joint_limits(model)
    return np.minimum(own, cut), cut


def _find_joint_limits(model: mujoco.MjModel) -> np.ndarray:
    """Returns the forces (A,) of the actuators at which joints or tendons limit them."""
    most = np.full(model.nu, np.inf)
    moments = np.abs(find_moments(model, model.qpos0))
    for joint in np.flatnonzero(model.jnt_actfrclimited):
        arm = moments[:, model.jnt_dofadr[joint]]
        torque = np.abs(model.jnt_actfrcrange[joint]).max()
        most = np.minimum(
            most, np.divide(torque, arm, out=np.full(model.nu, np.inf), where=arm > 0)
        )
    for actuator in np.flatnonzero(model.actuator_trntype == mujoco.mjtTrn.mjTRN_TENDON):
        tendon = model.actuator_trnid[actuator, 0]
        if model.tendon_actfrclimited[tendon]:
            force = np.abs(model.tendon_actfrcrange[tendon]).max()
            most[actuator] = min(most[actuator], force)
    return most


def count_revisions(robot: Robot) -> int:
    """Returns the changes of the reward for a robot.

    Once limits of joints were ignored and dampers had none, and where a term of the observation
    needed accelerations, the forces were those after the step.
    """
    model = bare_model(robot)
    is_limited = model.jnt_actfrclimited.any() or model.tendon_actfrclimited.any()
    has_damper = (model.actuator_gaintype != mujoco.mjtGain.mjGAIN_FIXED).any()
    is_late = robot.stage >= int(mujoco.mjtStage.mjSTAGE_ACC)
    return int(bool(is_limited or has_damper or is_late))


class SoftLimits:
    """Excess of the joints of M robots over SOFT of their ranges.

    Args:
        batch: The simulations.
    """

    def __init__(self, batch: Any):
        model = batch.model
        single = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
        joints = np.flatnonzero(model.jnt_limited & np.isin(model.jnt_type, list(map(int, single))))
        self._places, self._qpos = model.jnt_qposadr[joints], batch.bind("qpos")
        low, high = model.jnt_range[joints].T
        self._middle, self._half = 0.5 * (low + high), 0.5 * SOFT * (high - low)

    def excess(self) -> np.ndarray:
        """Returns the sums (M,) over the joints [rad or m]."""
        off = np.abs(self._qpos[:, self._places] - self._middle)
        return np.maximum(off - self._half, 0.0).sum(axis=1)


class AirTimes:
    """Times of the feet of M robots in the air.

    Args:
        feet: Names of their geoms.
        batch: The simulations; its model has the sensors of `FootContacts`.
        dt: Duration of a control step [s].
    """

    def __init__(self, feet: tuple[str, ...], batch: Any, dt: float):
        self._read, self._dt = FootContacts(feet).reader(batch), dt
        self._contact = np.zeros((batch.nsim, len(feet)), dtype=bool)
        self._time = np.zeros(self._contact.shape)

    def start(self, rows: np.ndarray) -> None:
        """Starts episodes in the rows (an index)."""
        self._time[rows] = 0.0

    def land(self, alive: np.ndarray) -> np.ndarray:
        """Returns the sums (M,) of time - LONG [s] over feet that land; advances rows alive."""
        self._read(self._contact)
        time = self._time + self._dt
        lands = self._contact & (self._time > 0.0)
        self._time[alive] = np.where(self._contact, 0.0, time)[alive]
        return np.where(lands, time - LONG, 0.0).sum(axis=1)


class Commands:
    """The commands of M robots in their episodes.

    Args:
        goal: The ranges and the reward.
        batch: The simulations.
        spec: The environment.
        feet: Names of the geoms of the feet.
    """

    def __init__(self, goal: Command, batch: Any, spec: EnvSpec, feet: tuple[str, ...]):
        self._goal = goal
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")
        self._force = batch.bind("actuator_force")
        model, rows = batch.model, batch.nsim
        self._limits, self._cut = find_force_limits(model)
        self._force_of_step: np.ndarray | None = None
        self._hold = max(1, round(goal.period / spec.dt))
        self._schedule = np.zeros((rows, -(-(spec.horizon + 1) // self._hold), SIZE))
        self._step = np.zeros(rows, dtype=int)
        self._action = np.zeros((rows, model.nu))
        self._soft_limits = SoftLimits(batch) if goal.limits else None
        self._air = AirTimes(feet, batch, spec.dt) if goal.air_time else None

    def start(
        self, rows: np.ndarray, rngs: Sequence[np.random.Generator], level: float = 1.0
    ) -> None:
        """Draws the commands of episodes in the rows (an index), each from its stream."""
        count = self._schedule.shape[1]
        self._schedule[rows] = [self._goal.draw(rng, count, level) for rng in rngs]
        self._step[rows], self._action[rows] = 0, 0.0
        if self._air:
            self._air.start(rows)

    @property
    def now(self) -> np.ndarray:
        """The commands (M, 3) of this control step."""
        place = np.minimum(self._step // self._hold, self._schedule.shape[1] - 1)
        return self._schedule[np.arange(len(place)), place]

    def reader(self) -> Reader:
        """Returns a reader of the present commands."""

        def read(target: np.ndarray) -> None:
            target[...] = self.now

        return read

    def motion(self) -> np.ndarray:
        """Returns the speeds forward and to the left and the turn (M, 3), in the base's axes."""
        velocity = np.einsum("mij,mi->mj", rotation(self._qpos[:, 3:7]), self._qvel[:, :3])
        return np.column_stack([velocity[:, :2], self._qvel[:, 5]])

    def keep_forces(self) -> None:
        """Keeps the actuators' forces of the step, which a forward pass would overwrite."""
        self._force_of_step = self._force.copy()

    def rewards(self, action: np.ndarray, alive: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parts (M,) of a step's reward by name; advances the rows that took it.

        Args:
            action: The policy's outputs (M, A), clipped.
            alive: Mask (M,) of those rows.
        """
        goal = self._goal
        rolling = np.square(self._qvel[:, 3:5]).sum(axis=1)
        jerk = np.square(action - self._action).sum(axis=1)
        force = self._force if self._force_of_step is None else self._force_of_step
        torque = np.square(np.clip(force, -self._cut, self._cut) / self._limits).mean(axis=1)
        parts = {
            "tracking": goal.tracking(self.now, self.motion()),
            "bobbing": -goal.bobbing * np.square(self._qvel[:, 2]),
            "rolling": -goal.rolling * rolling,
            "jerk": -goal.jerk * jerk,
            "torque": -goal.torque * torque,
        }
        if self._soft_limits:
            parts["limits"] = -goal.limits * self._soft_limits.excess()
        if self._air:
            is_moving = np.hypot(*self.now[:, :2].T) > SLOW
            parts["air_time"] = goal.air_time * self._air.land(alive) * is_moving
        self._action[alive] = action[alive]
        self._step += alive
        return parts
