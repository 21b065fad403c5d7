"""Variations of the world, for any robot and any goal (terrain has its own module)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from metarl.core.tasks import (
    NOT_NEGATIVE,
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
from metarl.envs.locomotion.payload import Load, Payload, own_bodies, own_geoms
from metarl.envs.locomotion.standing import refuse_other_ground
from metarl.envs.locomotion.world import Variation, World
from metarl.envs.robots.bodies import moving_mass
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
    fields = ("body_mass", "body_inertia", "geom_friction", "pair_friction", "dof_damping")
    derives = True
    task_split = (40, 10)
    formula = "mass, inertia, friction x 1.5^U(-3,3), damping x 1.3^U(-3,3), each element by itself"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of an exponent for each mass, inertia, friction and damping."""
        model = bare_model(robot)
        bodies = [model.body(i).name or f"body {i}" for i in range(1, model.nbody)]
        geoms = [model.geom(i).name or f"geom {i}" for i in range(model.ngeom)]
        joints = [int(model.dof_jntid[dof]) for dof in _damped_dofs(model)]
        damped = [model.joint(joint).name or f"joint {joint}" for joint in joints]
        names = [f"mass {name}" for name in bodies]
        names += [f"inertia {name} {axis}" for name in bodies for axis in "xyz"]
        names += [f"friction {name}" for name in geoms] + [f"damping {name}" for name in damped]
        return Uniform(tuple(Variable(name, "1", -3.0, 3.0) for name in names))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Multiplies the fields of the robot, and not those of balls."""
        model, own = bare_model(world.robot), own_bodies(world)[1:]
        bodies, geoms = model.nbody - 1, model.ngeom
        mass, inertia, friction, damping = np.split(
            tasks, np.cumsum([bodies, 3 * bodies, geoms]), axis=1
        )
        fields = world.fields
        fields["body_mass"][:, own] *= 1.5**mass
        fields["body_inertia"][:, own] *= 1.5 ** inertia.reshape(-1, bodies, 3)
        fields["geom_friction"][:, own_geoms(world), 0] *= 1.5**friction
        if model.npair:
            # the larger friction of two geoms counts; here both have that of their pair
            larger = np.maximum(friction[:, model.pair_geom1], friction[:, model.pair_geom2])
            fields["pair_friction"][..., :2] *= 1.5 ** larger[..., None]
        fields["dof_damping"][:, _damped_dofs(model)] *= 1.3**damping


def _damped_dofs(model: mujoco.MjModel) -> np.ndarray:
    return np.flatnonzero(model.dof_damping > 0.0)


@dataclass(frozen=True)
class Friction(Variation):
    """Sliding friction of the ground, from ice to rubber.

    MuJoCo uses the larger friction of two surfaces, which on ice would be the robot's. The ground
    therefore gets priority over all other geoms, so that every contact with it has its friction; so
    has every <pair> of the model with the ground. If a geom of the robot had priority over the
    ground, the ground takes the rest of that geom's contact, such as its stiffness.

    Attributes:
        train: Bands of the training tasks.
        test: Bands of the held-out tasks.
    """

    train: tuple[tuple[float, float], ...] = ((0.2, 1.5),)
    test: tuple[tuple[float, float], ...] = ((0.08, 0.2), (1.5, 2.5))

    name = "friction"
    fields = ("geom_friction", "pair_friction")
    sets = True
    formula = "sliding friction of the ground, uniform in log"
    unfit = "a fixed base does not stand on the ground"

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions: once geoms with a priority of their own kept their friction."""
        return int(_find_first(robot)[1] > 0)

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Gives the ground contact priority.

        Raises:
            ConfigError: The robot stands on something else, too.
        """
        refuse_other_ground(self.name, robot)
        model, (first, priority) = bare_model(robot), _find_first(robot)

        def edit(spec: mujoco.MjSpec) -> None:
            ground = spec.geom(robot.ground)
            if priority > ground.priority:
                for name in _CONTACT:
                    setattr(ground, name, getattr(model, f"geom_{name}")[first])
            ground.priority = max(0, priority, ground.priority) + 1

        return (edit,)

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the coefficient of friction."""
        train, test = (
            Bands("friction", "1", bands, log=True, limits=NOT_NEGATIVE)
            for bands in (self.train, self.test)
        )
        return Split(train, test)

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Sets the coefficient."""
        model, ground = world.model, world.model.geom(world.robot.ground).id
        world.fields["geom_friction"][:, ground, 0] = tasks[:, 0]
        if model.npair:
            pairs = (model.pair_geom1 == ground) | (model.pair_geom2 == ground)
            world.fields["pair_friction"][:, pairs, :2] = tasks[:, :1, None]


_CONTACT = ("friction", "condim", "solref", "solimp")
"""Fields that a contact takes from the geom with priority."""


def _find_first(robot: Robot) -> tuple[int, int]:
    """Returns the geom with the highest priority of those that can meet the ground, and that.

    Without any it is the ground itself, with the priority 0.
    """
    model = bare_model(robot)
    ground = model.geom(robot.ground).id
    types, affinities = model.geom_contype, model.geom_conaffinity
    meets = (types[ground] & affinities) | (types & affinities[ground])
    meets[ground] = 0
    found = np.flatnonzero(meets)
    if not len(found):
        return ground, 0
    first = found[model.geom_priority[found].argmax()]
    return int(first), int(model.geom_priority[first])


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
class ScaledGravity(Variation):
    """Magnitude of gravity, over more than a decade: 9.81 m/s^2 x 1.5^x with the task number x.

    Attributes:
        exponent: Largest absolute value of x.

    Source: the gravity tasks of RESeL (Luo et al. 2024, arXiv:2405.15384), with 100 training and 20
    test tasks.
    """

    exponent: float = 3.0

    name = "gravity"
    fields = ("opt.gravity",)
    task_split = (100, 20)
    formula = "gravity x 1.5^gravity_exponent"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the exponent."""
        return Uniform((Variable("gravity_exponent", "1", -self.exponent, self.exponent),))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Multiplies the vector of gravity."""
        world.fields["opt.gravity"][:] *= 1.5**tasks


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
    """Pushes of the base from one side at random times: sudden changes of its velocity.

    The steps from one push to the next are drawn from the stream of the episode: with the mean
    `interval`, whole numbers from a half to one and a half of it, all equally likely.

    Attributes:
        train: Range of the change in training tasks [m/s].
        test: Range of the change in held-out tasks [m/s].
        interval: Range of the mean of the control steps from one push to the next.
    """

    train: tuple[float, float] = (0.0, 1.0)
    test: tuple[float, float] = (1.0, 1.5)
    interval: tuple[int, int] = (25, 75)

    name = "push"
    formula = (
        "after every 0.5 to 1.5 `interval` steps, at random, the base gets the velocity `push` "
        "towards the heading"
    )
    unfit = "the base does not move"
    revisions = 1  # the steps from one push to the next were all `interval`
    has_events = True

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the change of velocity, the mean interval, and the heading.

        For planar robots the sign of the change replaces the heading.
        """
        steps = Choice(
            Variable(
                "interval", "step", *map(float, self.interval), limits=(1.0, np.inf), is_whole=True
            ),
            tuple(map(float, range(self.interval[0], self.interval[1] + 1))),
        )
        if robot.planar:
            (low, high), near = self.test, self.train[1]
            bands = ((-near, near),), ((-high, -low), (low, high))
            return Product((Split(*(Bands("push", "m/s", each) for each in bands)), steps))
        size = Split(*(Bands("push", "m/s", (each,)) for each in (self.train, self.test)))
        heading = Uniform((Variable("heading", "rad", 0.0, 2.0 * np.pi),))
        return Product((size, steps, heading))

    def draw(
        self, tasks: np.ndarray, rngs: Sequence[np.random.Generator], horizon: int
    ) -> np.ndarray:
        """Draws the steps of the pushes; see `Variation`."""
        events = np.zeros((len(tasks), horizon), dtype=bool)
        means = np.minimum(tasks[:, 1], 4.0 * horizon).astype(int)  # longer ones: no push, too
        for row, (rng, mean) in enumerate(zip(rngs, means, strict=True)):
            gaps = rng.integers(mean - mean // 2, mean + mean // 2, horizon, endpoint=True)
            steps = np.cumsum(gaps) - 1
            events[row, steps[steps < horizon]] = True
        return events

    def drive(self, world: World, tasks: np.ndarray, step: np.ndarray) -> None:
        """Pushes the robots whose step has come."""
        rows = np.flatnonzero(world.happens(self, step) & world.alive)
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
