"""Variations of the actuators: limbs that fail, and strengths and delays, for any robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.core.errors import ConfigError
from metarl.core.tasks import (
    NOT_NEGATIVE,
    Choice,
    Product,
    Sometimes,
    Split,
    TaskDistribution,
    Uniform,
    Variable,
)
from metarl.envs.locomotion.mechanics import delay_choice
from metarl.envs.locomotion.strength import STRENGTH_FIELDS, count_revisions, scale_strength
from metarl.envs.locomotion.world import Variation, World
from metarl.envs.robots.moments import find_compensated
from metarl.envs.robots.robot import Edit, Robot, bare_model


@dataclass(frozen=True)
class Cripple(Variation):
    """A limb without force, from the start or from some control step on.

    A limb is a leg of a four-legged robot, else a single joint. Its joints stay free. A joint whose
    actuators also compensate gravity loses that with the last of them.

    Attributes:
        held_out: The limb that only test tasks have; negative numbers count from the last.
        share: Probability that the limb fails in mid-episode.
        onset: First and last control step of such a failure.

    Source: Nagabandi et al. 2019 (arXiv:1803.11347), learning_to_adapt: legs 0 to 2, test leg 3.
    """

    held_out: int = -1
    share: float = 0.25
    onset: tuple[int, int] = (20, 100)

    name = "cripple"
    fields = ("actuator_gainprm", "actuator_biasprm", "jnt_actfrcrange")
    transient = fields
    formula = "the actuators of one limb are dead from step `onset` on"

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions: once dead actuators went on to compensate gravity."""
        return int(bool(find_compensated(robot)))

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Gives joints whose actuators compensate gravity a limit that can become zero.

        MuJoCo adds the compensation to the forces of the actuators whatever these are, and then
        applies the limit of the joint to the sum.
        """
        model = bare_model(robot)
        free = [joint for joint in find_compensated(robot) if not model.jnt_actfrclimited[joint]]

        def edit(spec: mujoco.MjSpec) -> None:
            for joint in free:
                name = model.joint(joint).name
                found = spec.joint(name) if name else spec.joints[joint]
                found.actfrclimited, found.actfrcrange = True, (-np.inf, np.inf)

        return (edit,) if free else ()

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the limb and the control step of its failure."""
        labels = limb_names(robot)
        limbs = tuple(map(float, range(len(labels))))
        test_limb = limbs[self.held_out]
        onset = Sometimes("onset", "step", *self.onset, self.share)
        others = tuple(limb for limb in limbs if limb != test_limb)
        train, test = (
            Product((Choice(Variable("limb", "1", v[0], v[-1], labels=labels), v), onset))
            for v in (others, (test_limb,))
        )
        return Split(train, test)

    def drive(self, world: World, tasks: np.ndarray, step: np.ndarray) -> None:
        """Lets the limbs fail whose step has come."""
        # a row that pauses meets its step again
        rows = np.flatnonzero((tasks[:, 1] == step) & world.alive)
        if len(rows):
            self._fail(world, tasks[rows], rows, _limbs(world.robot)[tasks[rows, 0].astype(int)])

    def _fail(
        self, world: World, tasks: np.ndarray, rows: np.ndarray, has_failed: np.ndarray
    ) -> None:
        """Sets gains and biases of the mask has_failed (n, A) to zero: a servo has no force."""
        for name in ("actuator_gainprm", "actuator_biasprm"):
            world.fields[name][rows] *= ~has_failed[..., None]
        for joint, actuators in find_compensated(world.robot).items():
            is_limp = has_failed[:, actuators].all(axis=1)
            world.fields["jnt_actfrcrange"][rows[is_limp], joint] = 0.0


@dataclass(frozen=True)
class Locked(Cripple):
    """A limb that seizes: no force of its actuators, and its joints hold their positions.

    Attributes:
        friction: Dry friction of the seized joints [N m or N].
    """

    friction: float = 1e4

    name = "locked"
    fields = (
        "actuator_gainprm",
        "actuator_biasprm",
        "jnt_actfrcrange",
        "dof_frictionloss",
        "dof_solimp",
        "dof_solref",
    )
    transient = fields
    formula = "the joints of one limb are stuck from step `onset` on"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the limb and the control step of its failure.

        Raises:
            ConfigError: An actuator drives no joint.
        """
        if (bare_model(robot).actuator_trntype != mujoco.mjtTrn.mjTRN_JOINT).any():
            raise ConfigError(f"locked: an actuator of {robot.name} drives no joint; try cripple")
        return super().tasks(robot)

    def _fail(
        self, world: World, tasks: np.ndarray, rows: np.ndarray, has_failed: np.ndarray
    ) -> None:
        """Takes the force of the actuators, and gives their joints the friction."""
        super()._fail(world, tasks, rows, has_failed)
        dofs = world.model.jnt_dofadr[world.model.actuator_trnid[:, 0]]
        row, actuator = np.nonzero(has_failed)
        place = rows[row], dofs[actuator]
        world.fields["dof_frictionloss"][place] = self.friction
        # as hard as MuJoCo allows: with its defaults a loaded joint creeps by 1 rad/s
        world.fields["dof_solimp"][place] = (0.9999, 0.9999, 0.001, 0.5, 2.0)
        world.fields["dof_solref"][place] = (2.0 * world.model.opt.timestep, 1.0)


@dataclass(frozen=True)
class Weak(Cripple):
    """A limb whose actuators keep a share of their strength, see `Actuator`.

    Attributes:
        strength: Range of the share.
    """

    strength: tuple[float, float] = (0.2, 0.8)

    name = "weak"
    fields = STRENGTH_FIELDS
    transient = fields
    formula = "the actuators of one limb keep the share `strength` from step `onset` on"

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions, see `count_revisions`."""
        return count_revisions(robot)

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the limb, the step of its failure, and its strength."""
        strength = Uniform((Variable("strength", "1", *self.strength, limits=NOT_NEGATIVE),))
        return Product((super().tasks(robot), strength))

    def _fail(
        self, world: World, tasks: np.ndarray, rows: np.ndarray, has_failed: np.ndarray
    ) -> None:
        """Multiplies the strength of the failed actuators."""
        factors = np.ones((len(world.ctrl), world.model.nu))
        factors[rows] = np.where(has_failed, tasks[:, 2:3], 1.0)
        scale_strength(world, factors)


@dataclass(frozen=True)
class Damage(Cripple):
    """A limb that is dead, locked or weak, in three of four tasks from the middle of an episode.

    Attributes:
        share: Probability that the limb fails in mid-episode.
        strength: Range of the share of their strength that the actuators of a weak limb keep.
    """

    share: float = 0.75
    strength: tuple[float, float] = (0.2, 0.8)

    name = "damage"
    fields = tuple(sorted({*Locked.fields, *Weak.fields}))
    transient = fields
    formula = "the actuators of one limb are dead, stuck or weak from step `onset` on"

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions, see `count_revisions`, and those of its kinds."""
        return count_revisions(robot) + Cripple().num_revisions(robot)

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of limb, step of its failure, kind of failure, and strength."""
        names = tuple(kind.name for kind in self._kinds())
        values = tuple(map(float, range(len(names))))
        kind = Choice(Variable("failure", "1", values[0], values[-1], labels=names), values)
        strength = Uniform((Variable("strength", "1", *self.strength, limits=NOT_NEGATIVE),))
        limb = Locked(held_out=self.held_out, share=self.share, onset=self.onset).tasks(robot)
        return Product((limb, kind, strength))

    def _kinds(self) -> tuple[Cripple, ...]:
        return Cripple(), Locked(), Weak(strength=self.strength)

    def _fail(
        self, world: World, tasks: np.ndarray, rows: np.ndarray, has_failed: np.ndarray
    ) -> None:
        """Lets each limb fail as its task says."""
        for number, kind in enumerate(self._kinds()):
            own = tasks[:, 2] == number
            kind._fail(world, tasks[own][:, [0, 1, 3]], rows[own], has_failed[own])


def _limbs(robot: Robot) -> np.ndarray:
    """Returns the mask (limbs, A) of each limb's actuators."""
    actuators = np.arange(bare_model(robot).nu)
    if not robot.limbs:
        return np.eye(len(actuators), dtype=bool)
    if len(robot.limbs) < 2:
        raise ConfigError(f"{robot.name} has one limb; cripple, locked and weak need two")
    return np.array([np.isin(actuators, limb) for limb in robot.limbs])


def limb_names(robot: Robot) -> tuple[str, ...]:
    """Returns the name of each limb."""
    first = _limbs(robot).argmax(axis=1)
    return robot.limb_names or tuple(_target_name(bare_model(robot), int(i)) for i in first)


def _target_name(model: mujoco.MjModel, actuator: int) -> str:
    """Returns the name of an actuator's joint, or of the actuator if it drives no single joint."""
    if model.actuator_trntype[actuator] == mujoco.mjtTrn.mjTRN_JOINT:
        joint = int(model.actuator_trnid[actuator, 0])
        return model.joint(joint).name or f"joint {joint}"
    return model.actuator(actuator).name or f"actuator {actuator}"


@dataclass(frozen=True)
class Actuator(Variation):
    """A factor for the strength of each actuator, and a delay of all controls.

    The factor multiplies all of an actuator's force and its limits, see `scale_strength`.

    Attributes:
        gear: Range of the factors.
    """

    gear: tuple[float, float] = (0.5, 1.5)

    name = "actuator"
    fields = STRENGTH_FIELDS
    past_steps = 3
    formula = "the strength of each actuator times its factor; all controls late by the delay"

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions, see `count_revisions`."""
        return count_revisions(robot)

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of a factor for each actuator, and of the delay."""
        model = bare_model(robot)
        joints = [_target_name(model, i) for i in range(model.nu)]
        gears = Uniform(tuple(Variable(f"gear {joint}", "1", *self.gear) for joint in joints))
        return Product((gears, delay_choice(range(self.past_steps + 1), self.past_steps)))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Multiplies the strengths."""
        scale_strength(world, tasks[:, :-1])

    def delays(self, tasks: np.ndarray) -> np.ndarray:
        """Returns the delay of the tasks."""
        return tasks[:, -1].astype(int)
