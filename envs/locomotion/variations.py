"""Variations of the world, for any robot and any goal (terrain has its own module)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from metarl.core.tasks import (
    Bands,
    Choice,
    Disc,
    Product,
    Split,
    TaskDistribution,
    Uniform,
    Variable,
)
from metarl.envs.locomotion.failures import Actuator, Cripple, Damage, Locked, Weak
from metarl.envs.locomotion.mechanics import Com, Delay, Joint, Servo
from metarl.envs.locomotion.standing import refuse_other_ground
from metarl.envs.locomotion.world import Variation, World
from metarl.envs.robots.arms.effector import find_effector
from metarl.envs.robots.bodies import carrier, moving_mass
from metarl.envs.robots.robot import Edit, Robot, bare_model

GRAVITY = 9.81


@dataclass(frozen=True)
class Params(Variation):
    """Factors for mass, inertia, friction and damping of every element.

    A task number is an exponent x: mass, inertia and friction are multiplied by 1.5^x, damping by
    1.3^x. Elements without effect are left out (the world's mass, torsional friction of sliding
    contacts, a damping of zero).

    Source: rand_param_envs (Rothfuss et al. 2019, arXiv:1810.06784; Rakelly et al. 2019, with 40
    training and 10 test tasks). As there, the three principal inertias are drawn independently.
    """

    name = "params"
    fields = ("body_mass", "body_inertia", "geom_friction", "dof_damping")
    derives = True
    task_split = (40, 10)
    formula = "mass, inertia, friction x 1.5^U(-3,3), damping x 1.3^U(-3,3), each element by itself"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of an exponent for each mass, inertia, friction and damping."""
        model = bare_model(robot)
        bodies = [model.body(i).name or f"body {i}" for i in range(1, model.nbody)]
        geoms = [model.geom(i).name or f"geom {i}" for i in range(model.ngeom)]
        damped = [model.joint(model.dof_jntid[i]).name for i in _damped_dofs(model)]
        names = [f"mass {name}" for name in bodies]
        names += [f"inertia {name} {axis}" for name in bodies for axis in "xyz"]
        names += [f"friction {name}" for name in geoms] + [f"damping {name}" for name in damped]
        return Uniform(tuple(Variable(name, "1", -3.0, 3.0) for name in names))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Multiplies the fields of the robot; bodies and geoms of other variations come last."""
        model = bare_model(world.robot)
        bodies, geoms = model.nbody - 1, model.ngeom
        mass, inertia, friction, damping = np.split(
            tasks, np.cumsum([bodies, 3 * bodies, geoms]), axis=1
        )
        fields = world.fields
        fields["body_mass"][:, 1 : bodies + 1] *= 1.5**mass
        fields["body_inertia"][:, 1 : bodies + 1] *= 1.5 ** inertia.reshape(-1, bodies, 3)
        fields["geom_friction"][:, :geoms, 0] *= 1.5**friction
        fields["dof_damping"][:, _damped_dofs(model)] *= 1.3**damping


def _damped_dofs(model: mujoco.MjModel) -> np.ndarray:
    return np.flatnonzero(model.dof_damping > 0.0)


@dataclass(frozen=True)
class Friction(Variation):
    """Sliding friction of the ground, from ice to rubber.

    MuJoCo uses the larger friction of two surfaces, which on ice would be the robot's. The ground
    therefore gets priority, so that every contact with it has its friction.

    Attributes:
        train: Bands of the training tasks.
        test: Bands of the held-out tasks.
    """

    train: tuple[tuple[float, float], ...] = ((0.2, 1.5),)
    test: tuple[tuple[float, float], ...] = ((0.08, 0.2), (1.5, 2.5))

    name = "friction"
    fields = ("geom_friction",)
    sets = True
    formula = "sliding friction of the ground, uniform in log"
    unfit = "a fixed base does not stand on the ground"

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Gives the ground contact priority.

        Raises:
            ConfigError: The robot stands on something else, too.
        """
        refuse_other_ground(self.name, robot)

        def edit(spec: mujoco.MjSpec) -> None:
            spec.geom(robot.ground).priority = 1

        return (edit,)

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the coefficient of friction."""
        train, test = (Bands("friction", "1", b, log=True) for b in (self.train, self.test))
        return Split(train, test)

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Sets the coefficient."""
        world.fields["geom_friction"][:, world.model.geom(world.robot.ground).id, 0] = tasks[:, 0]


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

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Adds the ball, without mass, as the last body, so that other bodies keep their index."""

        def edit(spec: mujoco.MjSpec) -> None:
            # not at the parent's origin: MuJoCo flags such a body and never moves it
            ball = spec.bodies[carrier(robot)].add_body(name=self.name, pos=[0.1, 0.1, 0.1])
            ball.add_geom(
                name=self.name,
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
        model.body_ipos[model.body(self.name).id] = 0.0

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the fraction of the torso's mass, and x (and y) of the ball.

        Planar robots have no y. For arms, it is the distribution of the share of the arm's mass.
        """
        if robot.fixed:
            return Uniform((Variable("payload", "1", 0.0, self.of_arm),))
        mass = Variable("payload", "1", 0.0, 1.0)
        axes = ("x",) if robot.planar else ("x", "y")
        position = tuple(Variable(f"payload_{axis}", "m", -self.reach, self.reach) for axis in axes)
        return Uniform((mass, *position))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Sets mass, inertia (of a solid ball) and position."""
        body = world.model.body(self.name).id
        full = moving_mass(world.robot) if world.robot.fixed else self._full_mass(world)
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

    def _full_mass(self, world: World) -> float:
        """Returns the mass of a ball whose task number is 1 [kg]."""
        return float(world.model.body_mass[world.robot.torso()])


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
            Uniform((Variable("load", "1", factor * low, factor * high),))
            for low, high in (self.train, self.test)
        )
        place = () if robot.fixed else (Uniform(super().tasks(robot).variables[1:]),)
        return Product((Split(train, test), *place))

    def _full_mass(self, world: World) -> float:
        return moving_mass(world.robot)


def _top(robot: Robot) -> float:
    """Returns the height of the torso's first geom above the torso's origin, at rest [m].

    It is 0 for a torso without a geom.
    """
    model, torso = bare_model(robot), robot.torso()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    geom = int(model.body_geomadr[torso])
    if geom < 0:
        return 0.0
    up = np.abs(data.geom_xmat[geom].reshape(3, 3)[2])
    centre = data.geom_xpos[geom, 2] - data.xpos[torso, 2]
    return float(centre + up @ model.geom_aabb[geom, 3:])


@dataclass(frozen=True)
class Gravity(Variation):
    """Magnitude and tilt of gravity; a tilt is like an inclined plane.

    Attributes:
        size: Range of the magnitude [m/s^2].
        train: Largest tilt of training tasks [degrees].
        test: Largest tilt of held-out tasks, whose tilts exceed those of training [degrees].
    """

    size: tuple[float, float] = (0.8 * GRAVITY, 1.2 * GRAVITY)
    train: float = 10.0
    test: float = 20.0

    name = "gravity"
    fields = ("opt.gravity",)
    formula = "gravity of the given size, tilted towards the heading"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of magnitude, tilt and heading of the tilt.

        For planar robots the sign of the tilt replaces the heading.
        """
        size = Uniform((Variable("gravity", "m/s^2", *self.size),))
        near, far = np.radians([self.train, self.test]).tolist()
        if robot.planar:
            train, test = Bands("tilt", "rad", ((-near, near),)), ((-far, -near), (near, far))
            return Product((size, Split(train, Bands("tilt", "rad", test))))
        heading = Uniform((Variable("heading", "rad", 0.0, 2.0 * np.pi),))
        train, test = (Bands("tilt", "rad", (b,)) for b in ((0.0, near), (near, far)))
        return Product((size, Split(train, test), heading))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Sets the vector of gravity."""
        size, tilt = tasks[:, 0], tasks[:, 1]
        heading = np.zeros(len(tasks)) if world.robot.planar else tasks[:, 2]
        level = np.sin(tilt)
        down = np.stack([level * np.cos(heading), level * np.sin(heading), -np.cos(tilt)], axis=1)
        world.fields["opt.gravity"][:] = size[:, None] * down


@dataclass(frozen=True)
class Wind(Variation):
    """A constant horizontal force on the torso's centre of mass.

    Attributes:
        share: Largest force, as a fraction of the robot's weight.
    """

    share: float = 0.2

    name = "wind"
    formula = "a constant level force on the torso"
    unfit = "the force is on the base, which does not move"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the force along x and, unless the robot is planar, y."""
        # rounded to three digits, so that the printed range is exact
        force = float(f"{self.share * GRAVITY * moving_mass(robot):.3g}")
        if robot.planar:
            return Uniform((Variable("wind_x", "N", -force, force),))
        return Disc(force, names=("wind_x", "wind_y"), unit="N")

    def start(self, world: World, tasks: np.ndarray, rows: Any) -> None:
        """Applies the force, which a reset of the simulation clears."""
        world.batch.bind("xfrc_applied")[rows, world.robot.torso(), : tasks.shape[1]] = tasks[rows]


@dataclass(frozen=True)
class Push(Variation):
    """Pushes of the base from one side, again and again: sudden changes of its velocity.

    Attributes:
        train: Range of the change in training tasks [m/s].
        test: Range of the change in held-out tasks [m/s].
        interval: Range of the control steps from one push to the next.
    """

    train: tuple[float, float] = (0.0, 1.0)
    test: tuple[float, float] = (1.0, 1.5)
    interval: tuple[int, int] = (25, 75)

    name = "push"
    formula = "every `interval` steps the base gets the velocity `push` towards the heading"
    unfit = "the base does not move"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the change of velocity, the interval, and the heading.

        For planar robots the sign of the change replaces the heading.
        """
        steps = Choice(
            Variable("interval", "step", *map(float, self.interval)),
            tuple(map(float, range(self.interval[0], self.interval[1] + 1))),
        )
        if robot.planar:
            (low, high), near = self.test, self.train[1]
            bands = ((-near, near),), ((-high, -low), (low, high))
            return Product((Split(*(Bands("push", "m/s", each) for each in bands)), steps))
        size = Split(*(Bands("push", "m/s", (each,)) for each in (self.train, self.test)))
        heading = Uniform((Variable("heading", "rad", 0.0, 2.0 * np.pi),))
        return Product((size, steps, heading))

    def drive(self, world: World, tasks: np.ndarray, step: np.ndarray) -> None:
        """Pushes the robots whose step has come."""
        is_time = (step + 1) % tasks[:, 1].astype(int) == 0
        rows = np.flatnonzero(is_time & world.alive)
        size = tasks[rows, 0]
        if world.robot.planar:
            world.qvel[rows, 0] += size
            return
        heading = tasks[rows, 2]
        world.qvel[rows, 0] += size * np.cos(heading)
        world.qvel[rows, 1] += size * np.sin(heading)


VARIATIONS: dict[str, Variation] = {
    variation.name: variation
    for variation in (
        Params(),
        Friction(),
        Payload(),
        Load(),
        Com(),
        Gravity(),
        Wind(),
        Delay(),
        Push(),
        Cripple(),
        Locked(),
        Weak(),
        Damage(),
        Actuator(),
        Servo(),
        Joint(),
    )
}
