"""Environments by name: a table, robot-goal-variations, or a plug-in (`envs/plugins`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from metarl.core.env import BatchEnv
from metarl.core.errors import nearest
from metarl.core.machine.files import split_packaged_robot, split_robot_file
from metarl.envs.families import FAMILIES, VARIANTS, goals_of
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.failures import Cripple, limb_names
from metarl.envs.locomotion.goals.hidden import RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.locomotion.terrain import Terrain
from metarl.envs.locomotion.variations import VARIATIONS
from metarl.envs.locomotion.world import Variation
from metarl.envs.navigation import DenseGoal, NavigationEnv, SparseGoal
from metarl.envs.plugins import discovery as plugins
from metarl.envs.plugins.discovery import UnknownEnvironment
from metarl.envs.plugins.subproc_env import TIMEOUT
from metarl.envs.robots import registered
from metarl.envs.robots.included import installed
from metarl.envs.robots.own import read_robot
from metarl.envs.robots.robot import Robot
from metarl.envs.wrappers.observe_task import ObserveTask

__all__ = ["ENVIRONMENTS", "FAMILIES", "UnknownEnvironment", "make", "own_recipe"]

Factory = Recipe | Callable[[str, int], BatchEnv]


WORLDS: dict[str, Variation] = {**VARIATIONS, Terrain.name: Terrain()}
"""Variations by their part of a name."""


def parse_name(name: str) -> Recipe | None:
    """Returns the recipe of a name `robot-goal-variation-...`, or None for other names.

    With `cripple`, `locked` or `weak`, "/" and the name of a limb hold out that limb.
    """
    name, has_limb, limb = name.partition("/")
    recipe = _parse_base(name)
    if recipe is None or not has_limb:
        return recipe
    limbs = limb_names(recipe.robot)
    if limb not in limbs or not any(isinstance(v, Cripple) for v in recipe.variations):
        return None
    variations = (
        replace(v, held_out=limbs.index(limb)) if isinstance(v, Cripple) else v
        for v in recipe.variations
    )
    return replace(recipe, variations=tuple(variations))


def _parse_base(name: str) -> Recipe | None:
    for robot, goal in _bases():
        variations = _read_variations(name, _join(robot, goal))
        if variations or (goal and variations is not None):
            return replace(FAMILIES[robot][goal], variations=variations)
    return None


def _read_variations(name: str, start: str) -> tuple[Variation, ...] | None:
    """Returns the variations that follow the start of a name, or None for other names."""
    if name == start:
        return ()
    if start and not name.startswith(f"{start}-"):
        return None
    words = name[len(start) + 1 :].split("-") if start else name.split("-")
    is_known = set(words) <= set(WORLDS) and len(set(words)) == len(words)
    return tuple(WORLDS[word] for word in words) if is_known else None


def _bases() -> list[tuple[str, str]]:
    return [(robot, goal) for robot, goals in FAMILIES.items() for goal in goals]


def _join(*parts: str) -> str:
    return "-".join(part for part in parts if part)


def _recipe(name: str) -> Recipe:
    recipe = parse_name(name)
    assert recipe is not None, name
    return recipe


ENVIRONMENTS: dict[str, Factory] = {
    "ant-dir": _recipe("ant-dir"),
    "ant-fwd-bwd": _recipe("ant-fwd-bwd"),
    "ant-goal": _recipe("ant-goal"),
    "ant-vel": _recipe("ant-vel"),
    "half-cheetah-dir": _recipe("half-cheetah-dir"),
    "half-cheetah-vel": _recipe("half-cheetah-vel"),
    "walker2d-dir": _recipe("walker2d-dir"),
    "walker2d-vel": _recipe("walker2d-vel"),
    "hopper-vel": _recipe("hopper-vel"),
    "humanoid-dir": _recipe("humanoid-dir"),
    "quadruped-command": _recipe("quadruped-command"),
    "quadruped-dir": _recipe("quadruped-dir"),
    "quadruped-vel": _recipe("quadruped-vel"),
    "quadruped-cripple": _recipe("quadruped-cripple"),
    "quadruped-terrain": _recipe("quadruped-terrain"),
    "ant-terrain": _recipe("ant-terrain"),
    "ant-dir-terrain": _recipe("ant-dir-terrain"),
    "half-cheetah-terrain": _recipe("half-cheetah-terrain"),
    "walker2d-terrain": _recipe("walker2d-terrain"),
    "ant-cripple": _recipe("ant-cripple"),
    "half-cheetah-cripple": _recipe("half-cheetah-cripple"),
    "walker2d-params": _recipe("walker2d-params"),
    "hopper-params": _recipe("hopper-params"),
    "ant-friction": _recipe("ant-friction"),
    "half-cheetah-friction": _recipe("half-cheetah-friction"),
    "ant-payload": _recipe("ant-payload"),
    "ant-gravity": _recipe("ant-gravity"),
    "ant-wind": _recipe("ant-wind"),
    "ant-actuator": _recipe("ant-actuator"),
    "arm-reach": _recipe("arm-reach"),
    "arm-reach-payload": _recipe("arm-reach-payload"),
    "arm-reach-weak": _recipe("arm-reach-weak"),
    "navigation-2d": lambda name, threads: NavigationEnv(name, DenseGoal()),
    "navigation-2d-sparse": lambda name, threads: NavigationEnv(
        name, SparseGoal(), max_step=0.1, step_scale=0.1
    ),
    **VARIANTS,
}
"""The recommended environments; `parse_name` accepts more names."""


def make(
    name: str,
    threads: int = 0,
    *,
    observe_terrain: bool = False,
    observe_task: bool = False,
    timeout: float = TIMEOUT,
) -> BatchEnv:
    """Builds an environment by name.

    Args:
        name: A name of ENVIRONMENTS, "robot-goal-variation-..." of FAMILIES and WORLDS, or the name
            of a plug-in (see `envs/plugins/discovery.py`).
        threads: Physics threads; 0 takes all cores. Results do not depend on it.
        observe_terrain: Append heights of the ground around the robot to the observation.
        observe_task: Append the task's numbers to the observation, as for an oracle.
        timeout: Of the workers of a plug-in, see TIMEOUT.

    Raises:
        UnknownEnvironment: There is no such name, module or attribute, and the message suggests a
            similar one; or the robot cannot have a variation, or there is no terrain to observe.
        UnsupportedHere: The environment needs something that is not installed.
        PluginFailure: A plug-in violates the contract.
    """
    factory = _factory(name, timeout)
    if isinstance(factory, Recipe) and factory.refusal:
        raise UnknownEnvironment(factory.refusal)
    if observe_terrain:
        factory = _observe_terrain(name, factory)
    if isinstance(factory, Recipe):
        env: BatchEnv = MujocoBatchEnv(name, factory, threads)
    else:
        env = factory(name, threads)
    return ObserveTask(env) if observe_task else env


def own_recipe(name: str) -> Recipe | None:
    """Returns the recipe of a name `my_robot.yaml:goal-variation-...`, or None for other names.

    Raises:
        ConfigError: The robot's file is unusable.
        UnknownEnvironment: The robot cannot have this goal or variation.
    """
    split = split_robot_file(name)
    if split is None:
        if name.endswith((".yaml", ".yml")):
            raise UnknownEnvironment(f"add a goal or variation, as in {name}:dir")
        return None
    file, parts = split
    return recipe_of(read_robot(file), parts)


def box_recipe(name: str) -> Recipe | None:
    """Returns the recipe of a name `go2-goal-variation-...` (`robots/included`), or None.

    Raises:
        ResourceError: The model of the robot is not installed.
        UnknownEnvironment: The robot cannot have this goal or variation.
    """
    split = split_packaged_robot(name)
    return None if split is None else recipe_of(installed.build(split[0]), split[1])


def registered_recipe(name: str) -> Recipe | None:
    """Returns the recipe of a name `robot-goal-variation-...` of a registered robot, or None.

    Raises:
        ConfigError: A package's robot cannot be used.
        UnknownEnvironment: The robot cannot have this goal or variation.
    """
    found = registered.find(name)
    return None if found is None else recipe_of(*found)


def recipe_of(robot: Robot, parts: str) -> Recipe:
    """Returns the recipe of a user's or a package's robot.

    Its bonus is that of the robot, or the goal's `least_bonus` if that is larger.

    Args:
        robot: The robot.
        parts: Goal and variations: `goal-variation-...`.

    Raises:
        UnknownEnvironment: It cannot have them.
    """
    goals = goals_of(robot)
    for goal, objective in goals.items():
        variations = _read_variations(parts, goal)
        if variations or (goal and variations is not None):
            bonus = 0.0 if robot.fixed else max(robot.bonus, objective.least_bonus)
            # once the robot's own bonus was that of all goals
            revisions = int(not robot.fixed and bonus > robot.bonus)
            terms = RewardTerms(bonus, robot.control_cost)
            return Recipe(robot, objective, terms, variations, revisions=revisions)
    worlds = [word for word, world in WORLDS.items() if not (robot.fixed and world.unfit)]
    known = [*filter(None, goals), *worlds]
    goal = next((each for each in goals if each and parts.startswith(f"{each}-")), "")
    words = parts.removeprefix(f"{goal}-").split("-")
    why = _misfit(robot, parts) or nearest(next((w for w in words if w not in known), ""), known)
    text = f"{parts!r} is no goal-variation of this robot{why} ({', '.join(known)})"
    raise UnknownEnvironment(text)


def _misfit(robot: Robot, parts: str) -> str:
    """Returns why a robot cannot have the goal with which parts begin, "" for no known goal."""
    if not robot.fixed:
        is_reach = parts.split("-")[0] == "reach"
        return ": reach needs an end effector and a fixed base" if is_reach else ""
    names = {goal for goals in FAMILIES.values() for goal in goals} - {"", "reach"}
    if any(parts == name or parts.startswith(f"{name}-") for name in (*names, *WORLDS)):
        return ": its base is fixed, so its goal is reach"
    return ""


def _factory(name: str, timeout: float) -> Factory:
    finders = (ENVIRONMENTS.get, parse_name, own_recipe, box_recipe, registered_recipe)
    for find in finders:
        factory = find(name)
        if factory is not None:
            return factory
    plug_in = plugins.find(name)
    if plug_in is not None:
        return lambda name, threads: plugins.build(name, plug_in, threads, timeout)
    hint = nearest(name, [*ENVIRONMENTS, *plugins.entry_points(), *_names_like(name)])
    robots = [robot for robot in FAMILIES if name.startswith(f"{robot}-")]
    for goals in (FAMILIES[robot] for robot in robots):
        hint += _misfit(next(iter(goals.values())).robot, name.removeprefix(f"{robots[0]}-"))
    raise UnknownEnvironment(f"no environment {name!r}{hint} (--list-envs shows all)")


def _observe_terrain(name: str, factory: Factory) -> Factory:
    if not isinstance(factory, Recipe) or WORLDS["terrain"] not in factory.variations:
        raise UnknownEnvironment(f"{name!r} has no terrain to observe; -terrain names have one")
    changes = {WORLDS["terrain"]: Terrain(observed=True)}
    return replace(factory, variations=tuple(changes.get(v, v) for v in factory.variations))


def _names_like(name: str) -> list[str]:
    """Returns names to suggest: every known beginning, by itself and with one more variation."""
    bases = [_join(*base) for base in _bases()]
    beginnings = [name[:k] for k, letter in enumerate(name) if letter == "-"]
    bases += [beginning for beginning in beginnings if parse_name(beginning)]
    names = bases + [_join(base, word) for base in bases for word in WORLDS]
    base, has_limb, _ = name.partition("/")
    recipe = _parse_base(base) if has_limb else None
    if recipe:
        names += [f"{base}/{limb}" for limb in limb_names(recipe.robot)]
    recipes = {known: parse_name(known) for known in names}
    return [known for known, recipe in recipes.items() if recipe and not recipe.refusal]
