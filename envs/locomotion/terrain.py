"""Terrain: heightfields of many kinds in one model, of which each simulation uses one.

The atlas has maps of every kind, level and patch, generated from a seed. A robot starts on a flat
area of height zero at the centre of its map. The terrain around it lies in rings, so that it is the
same in all directions. Lengths are in metres, angles in radians.

The ground is endless: a map is periodic and larger than its period, and under each robot it is
moved by whole periods. So the robot's own position is never changed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np

from metarl.core.errors import ConfigError
from metarl.core.tasks import Choice, Grades, Product, Split, TaskDistribution, Variable
from metarl.envs.locomotion.standing import move_to_world, refuse_other_ground
from metarl.envs.locomotion.world import Ground, Variation, World
from metarl.envs.rendering.heightfield import PERIOD
from metarl.envs.robots.bodies import hip_height
from metarl.envs.robots.ground import height_of, slope_of
from metarl.envs.robots.robot import Edit, Robot, bare_model

TRAIN_KINDS = ("slopes", "rough", "waves")
TEST_KINDS = ("stairs", "basin", "hill", "steep", "gaps")
KINDS = TRAIN_KINDS + TEST_KINDS
"""A task contains the index of a kind."""

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
PATCHES = 4
"""Number of maps of a kind and level; they differ in heading, phase, size and sign."""

FLAT = 1.25
"""Half width of the flat area at the start [m]."""

ANT_HEIGHT = 0.75
"""Height of the base of the robot for which the maps were made, at rest [m]."""

LEAST_HEIGHT = 0.05
"""Height below which the place of a base says nothing of the robot's height [m]."""

CEILING, BASE = 2.0, 0.5
"""Largest height and depth of a map, and thickness of the ground below [m]."""


@dataclass(frozen=True)
class Grid:
    """Points of a map.

    Attributes:
        half_x: Half length along x [m].
        half_y: Half length along y [m].
        columns: Number of points along x.
        rows: Number of points along y.
        period: Periods along x and y [m], whole numbers of cells; 0 is not periodic.
    """

    half_x: float
    half_y: float
    columns: int
    rows: int
    period: tuple[float, float]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns x and y (rows, columns) [m] relative to the nearest copy of the start."""
        x = _wrap_points(self.half_x, self.columns, self.period[0])
        return tuple(np.meshgrid(x, _wrap_points(self.half_y, self.rows, self.period[1])))


def _wrap_points(half: float, count: int, period: float) -> np.ndarray:
    if not period:
        return np.linspace(-half, half, count)
    cell = 2.0 * half / (count - 1)
    size = round(period / cell)
    # whole cells, so that points one period apart get the same bits
    return cell * (np.mod(np.arange(count) - (count - 1) // 2 + size // 2, size) - size // 2)


# Cells of 0.25 m and 0.2 m: at 0.1 m a step takes 2 to 3 times as long as on flat ground. A map
# ends 5 m beyond half its period: more than a robot reaches, and moves in a control step.
FIELD = Grid(25.0, 25.0, 201, 201, (40.0, 40.0))
# one row of cells: with two, a planar robot walks on their common edge, with twice the contacts
TRACK = Grid(50.0, 1.5, 501, 2, (90.0, 0.0))


def grid_of(robot: Robot) -> Grid:
    """Returns the points of a robot's maps, before they are scaled by `size_of`."""
    return TRACK if robot.planar else FIELD


@functools.cache
def size_of(robot: Robot) -> float:
    """Returns the scale of a robot's maps along all axes: 1 as for the Ant.

    A robot with a free base meets the same landscape in proportion to the height of its base, or
    of its hips if its base is higher than the Ant's: a Humanoid's is its chest. One whose base is
    at the ground, like a frame between the feet, does not tell its height.
    """
    model = bare_model(robot)
    level = height_of(model, model.geom(robot.ground).id)
    height = float(robot.rest()[robot.height_index]) - level
    if robot.planar or height < LEAST_HEIGHT:
        return 1.0
    if height <= ANT_HEIGHT:
        return round(height / ANT_HEIGHT, 2)
    return max(1.0, round(min(height, hip_height(robot) - level) / ANT_HEIGHT, 2))


def ridges(distance: np.ndarray, period: float) -> np.ndarray:
    """Returns a triangle wave: zero at 0, of height period / 2, rising 1 m per metre."""
    return 0.5 * period - np.abs(np.mod(distance, period) - 0.5 * period)


def lattice(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    spacing: float,
    period: tuple[float, float],
) -> np.ndarray:
    """Returns noise in [-1, 1] at x, y: independent at the points of a lattice, else interpolated.

    Args:
        rng: The stream of the noise.
        x: Positions [m].
        y: Positions [m], the shape of x.
        spacing: Distance of the points of the lattice [m].
        period: Periods along x and y [m]; with 0 the noise is constant along this axis.
    """
    columns, rows = (max(1, round(length / spacing)) for length in period)
    values = rng.uniform(-1.0, 1.0, (rows, columns))
    column, row = (np.floor(axis / spacing).astype(int) for axis in (x, y))
    right, up = x / spacing - column, y / spacing - row
    left, low, next_column, high = column % columns, row % rows, column + 1, (row + 1) % rows
    next_column %= columns
    lower = values[low, left] * (1 - right) + values[low, next_column] * right
    upper = values[high, left] * (1 - right) + values[high, next_column] * right
    return lower * (1 - up) + upper * up


def _ring_distance(x: np.ndarray, y: np.ndarray, heading: float, grid: Grid) -> np.ndarray:
    """Returns the distance [m] from the flat area of the nearest start, in squares along heading.

    Args:
        x: Position relative to the nearest start [m].
        y: Position relative to the nearest start [m]; ignored on a track.
        heading: Direction of a side of the squares [rad]; 0 on a track.
        grid: The points of the map.
    """
    if grid.rows == 2:
        return np.maximum(np.abs(x) - FLAT, 0.0)
    cosine, sine = np.cos(heading), np.sin(heading)
    distance = np.full_like(x, np.inf)
    # of turned squares, another start than the nearest one can be nearer
    for shift_x in (-grid.period[0], 0.0, grid.period[0]):
        for shift_y in (-grid.period[1], 0.0, grid.period[1]):
            there_x, there_y = x - shift_x, y - shift_y
            along = np.abs(cosine * there_x + sine * there_y)
            across = np.abs(cosine * there_y - sine * there_x)
            np.minimum(distance, np.maximum(along, across), out=distance)
    return np.maximum(distance - FLAT, 0.0)


def _swell(
    x: np.ndarray, y: np.ndarray, heading: float, length: float, phase: np.ndarray, grid: Grid
) -> np.ndarray:
    """Returns waves along the heading, plus waves across it unless the map is a track.

    The wave vectors are rounded such that the period is a whole number of waves along each axis.

    Args:
        x: Position [m].
        y: Position [m].
        heading: Direction of the first waves [rad].
        length: Length of a wave [m].
        phase: Phases of both waves [rad].
        grid: The points of the map.
    """
    period = grid.period[0]
    waves_x, waves_y = np.rint(np.array([np.cos(heading), np.sin(heading)]) * (period / length))
    turn = 2.0 * np.pi / period
    if grid.rows == 2:
        return np.sin(turn * waves_x * x + phase[0])
    along, across = waves_x * x + waves_y * y, waves_x * y - waves_y * x
    return np.sin(turn * along + phase[0]) + np.sin(turn * across + phase[1])


def heights(kind: str, level: float, rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Generates a map.

    Args:
        kind: One of KINDS.
        level: Difficulty in (0, 1].
        rng: The stream of the map.
        grid: The points of the map.

    Returns:
        Heights (rows, columns) [m], zero in the flat area.

    Raises:
        ValueError: The kind is unknown; the message lists all.
    """
    x, y = grid.points()
    track = grid.rows == 2
    heading = rng.uniform(0.0, 2.0 * np.pi)
    if track or kind in ("stairs", "gaps"):  # edges across the grid would be jagged
        heading = 0.0
    sign, size = rng.choice([-1.0, 1.0]), rng.uniform(0.8, 1.25)
    # distance from the flat area, in square rings and in round ones
    ring = _ring_distance(x, y, heading, grid)
    radius = np.maximum(np.hypot(x, 0.0 if track else y) - FLAT, 0.0)
    bowl = 1.0 - np.exp(-((radius / (4.0 * size)) ** 2))
    ease = np.minimum(ring, 1.0) ** 2 * (3.0 - 2.0 * np.minimum(ring, 1.0))
    match kind:
        case "slopes":  # up to 12 degrees, 3 m long
            return sign * np.tan(np.radians(12.0 * level)) * ridges(ring, 6.0 * size)
        case "steep":  # 16 to 26 degrees, 2 m long
            return sign * np.tan(np.radians(14.0 + 12.0 * level)) * ridges(ring, 4.0 * size)
        case "rough":
            return (0.03 + 0.12 * level) * ease * lattice(rng, x, y, 0.5, grid.period)
        case "waves":
            phase = rng.uniform(0.0, 2.0 * np.pi, 2)
            swell = _swell(x, y, heading, 3.0 * size, phase, grid)
            return (0.05 + 0.15 * level) * ease * swell
        case "stairs":  # five steps of 0.8 m up or down, then back; risers are one cell wide
            tread = 0.8 * size
            count = np.floor(ridges(ring, 10.0 * tread) / tread + 0.5)
            return sign * (0.04 + 0.12 * level) * count
        case "basin":  # the start is at the bottom
            return (0.4 + 1.2 * level) * bowl
        case "hill":  # the start is on the top
            return -(0.4 + 1.2 * level) * bowl
        case "gaps":
            period, width = 2.0 * size, 0.3 + 0.4 * level
            return -(0.1 + 0.4 * level) * (np.mod(ring, period) > period - width)
    raise ValueError(f"no kind of terrain {kind!r}; there are {', '.join(KINDS)}")


@functools.cache
def atlas(grid: Grid, seed: int) -> np.ndarray:
    """Returns all maps (kind x level x patch, rows, columns) float32 [m], read-only."""
    maps = [
        # without the level: at a higher level a patch is the same landscape, scaled up
        heights(kind, level, np.random.default_rng([seed, number, patch]), grid)
        for number, kind in enumerate(KINDS)
        for level in LEVELS
        for patch in range(PATCHES)
    ]
    result = np.array(maps, dtype=np.float32)
    result.flags.writeable = False
    return result


@functools.cache
def scaled_atlas(grid: Grid, seed: int, scale: float) -> np.ndarray:
    """Returns the atlas with heights times scale, read-only."""
    if scale == 1.0:
        return atlas(grid, seed)
    result = np.float32(scale) * atlas(grid, seed)
    result.flags.writeable = False
    return result


@dataclass(frozen=True)
class Terrain(Variation):
    """A map of the atlas as the ground; the kinds of TEST_KINDS are held out.

    The map repeats itself without an end. Health depends on the height above the ground. For robots
    of another size than the Ant all three dimensions of the map are in proportion (`size_of`).

    Attributes:
        observed: Append heights of the ground around the robot to the observation.
        seed: Seed of the atlas.
    """

    observed: bool = False
    seed: int = 0

    name = "terrain"
    unfit = "a fixed base does not walk on the ground"
    fields = ("geom_dataid", "geom_pos")
    revisions = 1  # the edge of the map ended an episode
    formula = (
        "the ground is a map of the given kind, level of difficulty and patch, endless: it repeats "
        f"every {FIELD.period[0]:g} m ({TRACK.period[0]:g} m for planar robots), in "
        "proportion for free robots of another size than the Ant"
    )

    def num_revisions(self, robot: Robot) -> int:
        """Returns the revisions; robots of all sizes once had the maps of the Ant."""
        # the heights observed were once along the axes of the world for all
        has_turned = self.observed and robot.observes_own_axes
        return self.revisions + (size_of(robot) != 1.0) + has_turned

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Adds the atlas to the model and replaces the plane by its first map.

        Raises:
            ConfigError: The ground is a slope, or the robot stands on something else.
        """
        refuse_other_ground(self.name, robot)
        grid, scale, bare = grid_of(robot), size_of(robot), bare_model(robot)
        level = height_of(bare, bare.geom(robot.ground).id)
        if slope_of(bare, bare.geom(robot.ground).id):
            hint = "it would replace a slope; gravity tilts level ground"
            raise ConfigError(f"terrain: the ground {robot.ground} of {robot.name}: {hint}")

        def edit(spec: mujoco.MjSpec) -> None:
            if spec.hfields:
                raise ConfigError(f"terrain: {robot.name} has a heightfield of its own")
            flat = np.zeros(grid.rows * grid.columns)
            for number in range(len(atlas(grid, self.seed))):
                field = spec.add_hfield(name=f"terrain {number}", userdata=flat)
                field.nrow, field.ncol = grid.rows, grid.columns
                # all of one size, so that the geom's bounds do not depend on the map
                size = np.array([grid.half_x, grid.half_y, 2.0 * CEILING, BASE])
                field.size = (scale * size).tolist()
            ground = move_to_world(spec, robot.ground)
            ground.type = mujoco.mjtGeom.mjGEOM_HFIELD
            ground.hfieldname = "terrain 0"
            ground.pos = [0.0, 0.0, level - scale * CEILING]
            ground.quat = [1.0, 0.0, 0.0, 0.0]
            ground.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
            # the bounding volumes that this phase uses do not follow a geom that moves
            spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE
            spec.add_numeric(name=PERIOD, data=[scale * period for period in grid.period])

        return (edit,)

    def finish(self, robot: Robot, model: mujoco.MjModel) -> None:
        """Writes the heights; the compiler would scale each map to the full range."""
        model.hfield_data[:] = (atlas(grid_of(robot), self.seed).ravel() / CEILING + 1.0) / 2.0

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of kind, level and patch."""
        train = range(len(TRAIN_KINDS))
        return Split(_choices(train), _choices(range(len(train), len(KINDS))))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Selects the maps."""
        grid = grid_of(world.robot)
        kind, level, patch = tasks.T
        step = np.rint(level / LEVELS[0]) - 1
        number = ((kind * len(LEVELS) + step) * PATCHES + patch).astype(int)
        world.fields["geom_dataid"][:, world.model.geom(world.robot.ground).id] = number
        scale = size_of(world.robot)
        maps = scaled_atlas(grid, self.seed, scale)
        half_x, half_y, x, y = (scale * size for size in (grid.half_x, grid.half_y, *grid.period))
        world.ground = Ground(maps, number, (half_x, half_y), (x, y))

    def start(self, world: World, tasks: np.ndarray, rows: Any) -> None:
        """Moves the maps to the robots."""
        self._move_maps(world)

    def drive(self, world: World, tasks: np.ndarray, step: np.ndarray) -> None:
        """Moves the maps to the robots."""
        self._move_maps(world)

    def _move_maps(self, world: World) -> None:
        """Moves each map by whole periods, so that its robot is less than half a period off."""
        axes = 1 if world.robot.planar else 2
        place = world.fields["geom_pos"][:, world.model.geom(world.robot.ground).id, :axes]
        position = np.nan_to_num(world.qpos[:, :axes])  # a failed simulation may be anywhere
        period = size_of(world.robot) * np.array(grid_of(world.robot).period[:axes])
        place[...] = period * np.rint(position / period)

    def scan(self, robot: Robot) -> np.ndarray:
        """Returns the points (P, 2) [m] around the robot, see `Variation.scan`."""
        if not self.observed:
            return super().scan(robot)
        if robot.planar:
            x = np.linspace(-1.5, 1.5, 13)
            return np.stack([x, np.zeros_like(x)], axis=1)
        axis = size_of(robot) * np.linspace(-1.0, 1.0, 5)
        return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def _choices(kinds: range) -> Product:
    parts = (("kind", map(float, kinds)), ("level", LEVELS), ("patch", map(float, range(PATCHES))))
    choices = []
    for name, values in parts:
        values, labels = tuple(values), KINDS if name == "kind" else ()
        variable = Variable(name, "1", values[0], values[-1], labels=labels)
        if name == "patch":
            variable = replace(variable, limits=(0.0, PATCHES - 1.0), is_whole=True)
        if name == "level":  # the nearest of LEVELS is played
            variable = replace(variable, limits=(LEVELS[0], LEVELS[-1]))
        choice = Choice(variable, values)
        choices.append(Grades(choice) if name == "level" else choice)
    return Product(tuple(choices))
