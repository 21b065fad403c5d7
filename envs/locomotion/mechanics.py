"""Variations of mechanics: mass centre, gains of servos, damping of joints, delay of controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.core.errors import ConfigError
from metarl.core.tasks import (
    NOT_NEGATIVE,
    Bands,
    Choice,
    Product,
    Split,
    TaskDistribution,
    Variable,
)
from metarl.envs.locomotion.world import Variation, World
from metarl.envs.physics.fields import read
from metarl.envs.robots.bodies import extent, heaviest_of_torso
from metarl.envs.robots.robot import Edit, Robot, bare_model


@dataclass(frozen=True)
class Com(Variation):
    """The torso's centre of mass lies elsewhere, as with another battery or a tool.

    The shift is along the axes of the torso, in proportion to the robot's length, width and height
    at rest. Mass and inertia about the centre stay. Of a torso with hardly any mass, it is
    the centre of the heaviest body welded to it.

    Attributes:
        train: Largest shift of training tasks along an axis, as a share of the robot's size.
        test: Largest shift of held-out tasks, whose shifts exceed those of training.
    """

    train: float = 0.05
    test: float = 0.1

    name = "com"
    fields = ("body_ipos",)
    derives = True
    formula = "the torso's centre of mass is shifted, in proportion to the robot's size"

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Marks a body as not simple, whose centre MuJoCo refuses to move."""
        body, model = heaviest_of_torso(robot), bare_model(robot)
        if not model.body_simple[body]:
            return ()

        def edit(spec: mujoco.MjSpec) -> None:
            name = model.body(body).name
            found = spec.body(name) if name else spec.bodies[body]
            found.simple = False

        return (edit,)

    def finish(self, robot: Robot, model: mujoco.MjModel) -> None:
        """Clears the marks of frames that coincide; MuJoCo would leave these at their place."""
        body, none = heaviest_of_torso(robot), int(mujoco.mjtSameFrame.mjSAMEFRAME_NONE)
        model.body_sameframe[body] = none
        model.geom_sameframe[model.geom_bodyid == body] = none
        model.site_sameframe[model.site_bodyid == body] = none

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the shift along x, y and z; planar robots have no y."""
        axes = (0, 2) if robot.planar else (0, 1, 2)
        size = extent(robot)
        return Product(tuple(self._axis(f"com_{'xyz'[axis]}", size[axis]) for axis in axes))

    def _axis(self, name: str, size: float) -> TaskDistribution:
        # rounded to three digits, so that the printed range is exact
        near, far = (float(f"{share * size:.3g}") for share in (self.train, self.test))
        test = Bands(name, "m", ((-far, -near), (near, far)))
        return Split(Bands(name, "m", ((-near, near),)), test)

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Shifts the centre of mass."""
        axes = (0, 2) if world.robot.planar else (0, 1, 2)
        body = heaviest_of_torso(world.robot)
        shift = np.zeros((len(tasks), 3))
        shift[:, axes] = tasks
        if body != world.robot.torso():
            data = mujoco.MjData(world.model)
            mujoco.mj_kinematics(world.model, data)
            torso, own = (data.xmat[each].reshape(3, 3) for each in (world.robot.torso(), body))
            shift = shift @ torso.T @ own  # from the axes of the torso to those of the body
        world.fields["body_ipos"][:, body] += shift


@dataclass(frozen=True)
class Servo(Variation):
    """Stiffness and damping of all servos: gains of controllers that are never as stated.

        force = kp (target - position) - kd speed

    A speed servo has no stiffness, so the factor of its damping is that of its whole force. Motors
    stay as they are.

    Attributes:
        train: Range of both factors in training tasks.
        test: Ranges of both factors in held-out tasks.
    """

    train: tuple[tuple[float, float], ...] = ((0.7, 1.3),)
    test: tuple[tuple[float, float], ...] = ((0.5, 0.7), (1.3, 1.5))

    name = "servo"
    fields = ("actuator_gainprm", "actuator_biasprm")
    needs_servos = True
    formula = "stiffness and damping of all servos times a factor each"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the factors; one that would change nothing is left out.

        Raises:
            ConfigError: The robot has no servos.
        """
        names = [name for name, has in zip(_GAINS, _find_gains(robot), strict=True) if has.any()]
        if not names:
            hint = "its actuators are motors; try actuator"
            raise ConfigError(f"servo: {robot.name} has no servos: {hint}")
        return Product(tuple(_factor(name, self.train, self.test) for name in names))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Multiplies the gains."""
        gains, biases = (world.fields[name] for name in self.fields)
        stiff, damped = _find_gains(world.robot)
        factors = iter(tasks.T[:, :, None])
        if stiff.any():
            factor = next(factors)
            gains[:, stiff, 0] *= factor
            # the constant part belongs to the target
            biases[:, stiff, :2] *= factor[..., None]
        if damped.any():
            factor = next(factors)
            gains[:, damped & ~stiff, 0] *= factor
            biases[:, damped & ~stiff, 0] *= factor
            biases[:, damped, 2] *= factor


_GAINS = ("servo_stiffness", "servo_damping")


def _find_gains(robot: Robot) -> tuple[np.ndarray, np.ndarray]:
    """Returns the masks (A,) of the actuators with stiffness and of those with damping."""
    model = bare_model(robot)
    is_linear = model.actuator_biastype == mujoco.mjtBias.mjBIAS_AFFINE
    is_linear &= model.actuator_gaintype == mujoco.mjtGain.mjGAIN_FIXED
    stiff, damped = (is_linear & (model.actuator_biasprm[:, k] != 0.0) for k in (1, 2))
    return stiff, damped


_DAMPINGS = ("dof_damping", "dof_dampingpoly", "actuator_damping", "actuator_dampingpoly")
_ARMATURES = ("dof_armature", "actuator_armature")


@dataclass(frozen=True)
class Joint(Variation):
    """Damping and armature (inertia of rotors) of all joints and actuators.

    Attributes:
        train: Range of both factors in training tasks.
        test: Ranges of both factors in held-out tasks.
    """

    train: tuple[tuple[float, float], ...] = ((0.5, 2.0),)
    test: tuple[tuple[float, float], ...] = ((0.25, 0.5), (2.0, 4.0))

    name = "joint"
    fields = (*_DAMPINGS, *_ARMATURES)
    derives = True
    formula = "damping and armature of all joints times a factor each, uniform in log"

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions; only `dof_damping` and `dof_armature` were once scaled."""
        model, others = bare_model(robot), {*self.fields} - {"dof_damping", "dof_armature"}
        return int(any(read(model, name).any() for name in others))

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the factors; one that would change nothing is left out.

        Raises:
            ConfigError: No joint has damping or armature.
        """
        names = [name for name, has in _find_resistances(robot).items() if has]
        if not names:
            raise ConfigError(f"joint: no joint of {robot.name} has damping or armature; add some")
        return Product(tuple(_factor(name, self.train, self.test, log=True) for name in names))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Multiplies the damping and the armature."""
        factors = iter(tasks.T)
        found = _find_resistances(world.robot).values()
        groups = [each for each, has in zip((_DAMPINGS, _ARMATURES), found, strict=True) if has]
        for names in groups:
            factor = next(factors)
            for name in names:
                values = world.fields[name]
                values *= factor.reshape(-1, *[1] * (values.ndim - 1))


def _find_resistances(robot: Robot) -> dict[str, bool]:
    """Returns by name of its factor which of damping and armature some joint has."""
    model = bare_model(robot)
    return {
        "joint_damping": any(read(model, name).any() for name in _DAMPINGS),
        "joint_armature": any(read(model, name).any() for name in _ARMATURES),
    }


def _factor(
    name: str,
    train: tuple[tuple[float, float], ...],
    test: tuple[tuple[float, float], ...],
    *,
    log: bool = False,
) -> TaskDistribution:
    bands = (Bands(name, "1", each, log=log, limits=NOT_NEGATIVE) for each in (train, test))
    return Split(*bands)


def delay_choice(steps: Sequence[int], longest: int) -> Choice:
    """Returns the choice of a delay [control steps], of which the longest is usable."""
    values, limits = tuple(map(float, steps)), (0.0, float(longest))
    return Choice(
        Variable("delay", "step", values[0], values[-1], limits=limits, is_whole=True), values
    )


@dataclass(frozen=True)
class Delay(Variation):
    """A delay of all controls, longer in test tasks; it adds to that of the robot.

    Attributes:
        train: Delays of the training tasks [control steps].
        test: Delays of the held-out tasks [control steps], at most `past_steps`.
    """

    train: tuple[int, ...] = (0, 1, 2, 3)
    test: tuple[int, ...] = (4,)

    name = "delay"
    past_steps = 4
    formula = "all controls come late by `delay` control steps"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the delay."""
        return Split(
            delay_choice(self.train, self.past_steps), delay_choice(self.test, self.past_steps)
        )

    def delays(self, tasks: np.ndarray) -> np.ndarray:
        """Returns the delay of the tasks."""
        return tasks[:, 0].astype(int)
