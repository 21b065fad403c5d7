"""Terrain: heightfields of many kinds in one model, of which each simulation uses one.

The atlas has maps of every kind, level and patch, generated from a seed. A robot starts on a flat
area of height zero at the centre of its map. The terrain around it lies in rings, so that it is the
same in all directions. Lengths are in metres, angles in radians.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.core.tasks import Choice, Product, Split, TaskDistribution, Variable
from metarl.envs.locomotion.robots import Edit, Robot
from metarl.envs.locomotion.world import GROUND, Ground, Variation, World

TRAIN_KINDS = ("slopes", "rough", "waves")
TEST_KINDS = ("stairs", "basin", "hill", "steep", "gaps")
KINDS = TRAIN_KINDS + TEST_KINDS
"""A task contains the index of a kind."""

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
PATCHES = 4
"""Number of maps of a kind and level; they differ in heading, phase, size and sign."""

FLAT = 1.25
"""Half width of the flat area at the start [m]."""

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
    """

    half_x: float
    half_y: float
    columns: int
    rows: int

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns x and y (rows, columns) [m]."""
        x = np.linspace(-self.half_x, self.half_x, self.columns)
        return tuple(np.meshgrid(x, np.linspace(-self.half_y, self.half_y, self.rows)))


# cells of 0.25 m and 0.2 m: at 0.1 m a step takes 2 to 3 times as long as on flat ground
FIELD = Grid(25.0, 25.0, 201, 201)
# one row of cells: with two, a planar robot walks on their common edge, with twice the contacts
TRACK = Grid(50.0, 1.5, 501, 2)


def grid_of(robot: Robot) -> Grid:
    """Returns the points of a robot's maps."""
    return TRACK if robot.planar else FIELD


def ridges(distance: np.ndarray, period: float) -> np.ndarray:
    """Returns a triangle wave: zero at 0, of height period / 2, rising 1 m per metre."""
    return 0.5 * period - np.abs(np.mod(distance, period) - 0.5 * period)


def lattice(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, spacing: float) -> np.ndarray:
    """Returns noise in [-1, 1] at x, y: independent at the points of a lattice, else interpolated.

    On a track (two rows of points) it is constant along y.
    """
    x, y = (x - x.min()) / spacing, (y - y.min()) / spacing
    if len(x) == 2:
        y = np.zeros_like(y)
    values = rng.uniform(-1.0, 1.0, (int(y.max()) + 2, int(x.max()) + 2))
    column, row = x.astype(int), y.astype(int)
    right, up = x - column, y - row
    lower = values[row, column] * (1 - right) + values[row, column + 1] * right
    upper = values[row + 1, column] * (1 - right) + values[row + 1, column + 1] * right
    return lower * (1 - up) + upper * up


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
    along = np.cos(heading) * x + np.sin(heading) * y
    across = 0.0 * y if track else np.cos(heading) * y - np.sin(heading) * x
    # distance from the flat area, in square rings and in round ones
    ring = np.maximum(np.maximum(np.abs(along), np.abs(across)) - FLAT, 0.0)
    bowl = 1.0 - np.exp(-((np.maximum(np.hypot(along, across) - FLAT, 0.0) / (4.0 * size)) ** 2))
    ease = np.minimum(ring, 1.0) ** 2 * (3.0 - 2.0 * np.minimum(ring, 1.0))
    match kind:
        case "slopes":  # up to 12 degrees, 3 m long
            return sign * np.tan(np.radians(12.0 * level)) * ridges(ring, 6.0 * size)
        case "steep":  # 16 to 26 degrees, 2 m long
            return sign * np.tan(np.radians(14.0 + 12.0 * level)) * ridges(ring, 4.0 * size)
        case "rough":
            return (0.03 + 0.12 * level) * ease * lattice(rng, x, y, 0.5)
        case "waves":
            phase = rng.uniform(0.0, 2.0 * np.pi, 2)
            turn = 2.0 * np.pi / (3.0 * size)
            swell = np.sin(turn * along + phase[0]) + (not track) * np.sin(turn * across + phase[1])
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


@dataclass(frozen=True)
class Terrain(Variation):
    """A map of the atlas as the ground; the kinds of TEST_KINDS are held out.

    The episode ends at the edge of the map. Health depends on the height above the ground.

    Attributes:
        observed: Append heights of the ground around the robot to the observation.
        seed: Seed of the atlas.
    """

    observed: bool = False
    seed: int = 0

    name = "terrain"
    fields = ("geom_dataid",)
    formula = (
        "the ground is a map of the given kind, level of difficulty and patch; its edge, "
        f"{FIELD.half_x:g} m from the start ({TRACK.half_x:g} m for planar robots), "
        "ends the episode"
    )

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Adds the atlas to the model and replaces the plane by its first map."""
        grid = grid_of(robot)

        def edit(spec: mujoco.MjSpec) -> None:
            flat = np.zeros(grid.rows * grid.columns)
            for number in range(len(atlas(grid, self.seed))):
                field = spec.add_hfield(name=f"terrain {number}", userdata=flat)
                field.nrow, field.ncol = grid.rows, grid.columns
                # all of one size, so that the geom's bounds do not depend on the map
                field.size = [grid.half_x, grid.half_y, 2.0 * CEILING, BASE]
            ground = spec.geom(GROUND)
            ground.type = mujoco.mjtGeom.mjGEOM_HFIELD
            ground.hfieldname = "terrain 0"
            ground.pos = [0.0, 0.0, -CEILING]

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
        step = np.rint(np.clip(level, LEVELS[0], LEVELS[-1]) / LEVELS[0]) - 1
        number = ((kind * len(LEVELS) + step) * PATCHES + patch).astype(int)
        world.fields["geom_dataid"][:, world.model.geom(GROUND).id] = number
        maps = atlas(grid, self.seed)
        world.ground = Ground(maps, number, grid.half_x, grid.half_y)

    def scan(self, robot: Robot) -> np.ndarray:
        """Returns the points (P, 2) [m, world axes] around the robot whose height it observes."""
        if not self.observed:
            return super().scan(robot)
        if robot.planar:
            x = np.linspace(-1.5, 1.5, 13)
            return np.stack([x, np.zeros_like(x)], axis=1)
        axis = np.linspace(-1.0, 1.0, 5)
        return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def _choices(kinds: range) -> Product:
    parts = (("kind", map(float, kinds)), ("level", LEVELS), ("patch", map(float, range(PATCHES))))
    choices = []
    for name, values in parts:
        values, labels = tuple(values), KINDS if name == "kind" else ()
        choices.append(Choice(Variable(name, "1", values[0], values[-1], labels=labels), values))
    return Product(tuple(choices))
