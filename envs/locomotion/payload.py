"""Balls that a robot carries on its torso, or an arm at its end effector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.core.tasks import (
    NOT_NEGATIVE,
    Product,
    Split,
    TaskDistribution,
    Uniform,
    Variable,
)
from metarl.envs.locomotion.world import Variation, World
from metarl.envs.robots.arms.effector import find_effector
from metarl.envs.robots.bodies import carrier, moving_mass, torso_mass
from metarl.envs.robots.robot import Edit, Robot, bare_model


@dataclass(frozen=True)
class Payload(Variation):
    """A ball on top of the torso, off centre, with up to the torso's mass; on arms see below.

    An arm has it at its end effector, with up to a share of the mass that its joints move.

    Attributes:
        reach: Largest distance from the torso's centre along x and y [m].
        radius: Radius of the ball [m]; it has no contacts.
        of_arm: That share; the joints of a UR5e move 17 kg, and it is rated for 5 kg.
    """

    reach: float = 0.2
    radius: float = 0.06
    of_arm: float = 0.25

    name = "payload"
    fields = ("body_mass", "body_inertia", "body_pos")
    derives = True
    formula = "a ball of a share of the torso's mass, on top of it (arms: of the arm, at its end)"

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions: once the ball was above the first geom of every torso."""
        return int(not robot.fixed and _top(robot) != _top_of_first(robot))

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Adds the ball, without mass, as the last body of those that hang on its carrier."""
        name = self._ball(robot)

        def edit(spec: mujoco.MjSpec) -> None:
            # not at the parent's origin: MuJoCo flags such a body and never moves it
            ball = _carrier_in(spec, robot).add_body(name=name, pos=[0.1, 0.1, 0.1])
            ball.add_geom(
                name=name,
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                size=[self.radius, 0.0, 0.0],
                mass=0.0,
                contype=0,
                conaffinity=0,
                rgba=[0.25, 0.3, 0.4, 1.0],
            )

        return (edit,)

    def finish(self, robot: Robot, model: mujoco.MjModel) -> None:
        """Moves the centre of mass to the ball; the compiler leaves it undefined without a mass."""
        model.body_ipos[model.body(self._ball(robot)).id] = 0.0

    def _ball(self, robot: Robot) -> str:
        """Returns the name of the ball, which no body and no geom of the robot has."""
        model = bare_model(robot)
        taken = {model.body(i).name for i in range(model.nbody)}
        taken |= {model.geom(i).name for i in range(model.ngeom)}
        name = self.name
        while name in taken:
            name = f"metarl {name}"
        return name

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the fraction of the torso's mass, and x (and y) of the ball.

        Planar robots have no y. For arms, it is the distribution of the share of the arm's mass.
        """
        if robot.fixed:
            return Uniform((Variable("payload", "1", 0.0, self.of_arm, limits=NOT_NEGATIVE),))
        mass = Variable("payload", "1", 0.0, 1.0, limits=NOT_NEGATIVE)
        axes = ("x",) if robot.planar else ("x", "y")
        position = tuple(
            Variable(f"{self.name}_{axis}", "m", -self.reach, self.reach) for axis in axes
        )
        return Uniform((mass, *position))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Sets mass, inertia (of a solid ball) and position."""
        body = world.model.body(self._ball(world.robot)).id
        full = moving_mass(world.robot) if world.robot.fixed else self._full_mass(world.robot)
        mass = tasks[:, 0] * full
        world.fields["body_mass"][:, body] = mass
        world.fields["body_inertia"][:, body] = (0.4 * self.radius**2 * mass)[:, None]
        position = world.fields["body_pos"][:, body]
        if effector := find_effector(world.model, world.robot.effector):
            position[:] = effector.offset
            return
        position[:] = 0.0
        position[:, : tasks.shape[1] - 1] = tasks[:, 1:]
        position[:, 2] = _top(world.robot) + self.radius

    def _full_mass(self, robot: Robot) -> float:
        """Returns the mass of a ball whose task number is 1 [kg]."""
        return torso_mass(robot)


@dataclass(frozen=True)
class Load(Payload):
    """A ball on top of the torso with a share of the whole robot's mass, heavier in test tasks.

    An arm has half of these shares of its mass at its end effector.

    Attributes:
        train: Range of the share in training tasks.
        test: Range of the share in held-out tasks.
    """

    reach: float = 0.1
    train: tuple[float, float] = (0.0, 0.3)
    test: tuple[float, float] = (0.3, 0.5)

    name = "load"
    formula = "a ball of a share of the robot's mass, on top of its torso (arms: at its end)"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the share, and of x (and y) of the ball."""
        factor = 0.5 if robot.fixed else 1.0
        train, test = (
            Uniform((Variable("load", "1", factor * low, factor * high, limits=NOT_NEGATIVE),))
            for low, high in (self.train, self.test)
        )
        place = () if robot.fixed else (Uniform(super().tasks(robot).variables[1:]),)
        return Product((Split(train, test), *place))

    def _full_mass(self, robot: Robot) -> float:
        return moving_mass(robot)


def own_bodies(world: World) -> np.ndarray:
    """Returns the bodies (nbody of the robot,) of a world that are no balls."""
    bare, model = bare_model(world.robot), world.model
    own = {bare.body(i).name for i in range(bare.nbody)}
    return np.array([i for i in range(model.nbody) if model.body(i).name in own])


def own_geoms(world: World) -> np.ndarray:
    """Returns the geoms (ngeom of the robot,) of a world that are no balls."""
    own = np.zeros(world.model.nbody, dtype=bool)
    own[own_bodies(world)] = True
    return np.flatnonzero(own[world.model.geom_bodyid])


def _carrier_in(spec: mujoco.MjSpec, robot: Robot) -> mujoco.MjsBody:
    """Returns the body of a model before its compilation that carries a ball."""
    index = carrier(robot)
    name = bare_model(robot).body(index).name
    return spec.body(name) if name else spec.bodies[index]


def _top(robot: Robot) -> float:
    """Returns the height of the torso's top above its origin, at rest [m].

    Of a user's robot it is that of the highest geom above its origin, also of bodies welded to it;
    of others that of the first geom. It is 0 without a geom.
    """
    found = _top_above_origin(robot) if robot.is_own else None
    return _top_of_first(robot) if found is None else found


def _top_above_origin(robot: Robot) -> float | None:
    """Returns the highest top of the torso's geoms whose box is above or below its origin [m].

    None if there is no such geom.
    """
    model, torso, data = bare_model(robot), robot.torso(), mujoco.MjData(bare_model(robot))
    mujoco.mj_kinematics(model, data)
    own = np.flatnonzero(model.body_weldid[model.geom_bodyid] == model.body_weldid[torso])
    rotation, box = data.geom_xmat[own].reshape(-1, 3, 3), model.geom_aabb[own]
    centre = data.geom_xpos[own] + np.einsum("gij,gj->gi", rotation, box[:, :3]) - data.xpos[torso]
    half = np.einsum("gij,gj->gi", np.abs(rotation), box[:, 3:])
    is_there = (np.abs(centre[:, :2]) <= half[:, :2]).all(axis=1)
    return max((centre + half)[is_there, 2].tolist(), default=None)


def _top_of_first(robot: Robot) -> float:
    """Returns the height of the torso's first geom above the torso's origin [m], 0 without one."""
    model, torso = bare_model(robot), robot.torso()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    geom = int(model.body_geomadr[torso])
    if geom < 0:
        return 0.0
    up = np.abs(data.geom_xmat[geom].reshape(3, 3)[2])
    centre = data.geom_xpos[geom, 2] - data.xpos[torso, 2]
    return float(centre + up @ model.geom_aabb[geom, 3:])
