"""Registers environments with Gymnasium, in the namespace `metarl`.

    gymnasium.make("metarl/ant-dir")                   one robot; every reset draws a task
    gymnasium.make_vec("metarl/ant-dir", num_envs=4)   four robots, each with a task of its own

In an id of Gymnasium a slash ends the namespace, so a slash in a name becomes a hyphen:
`half-cheetah-dir/rllib` is `metarl/half-cheetah-dir-rllib`.

This module imports neither Gymnasium nor MuJoCo until one of its functions needs them.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.core.env import BatchEnv
    from metarl.envs.wrappers.gymnasium import GymEnv, GymVectorEnv

# The names of metarl.envs.registry.ENVIRONMENTS, whose import takes MuJoCo; a test compares them.
HORIZONS = dict.fromkeys(
    """
    ant-dir ant-fwd-bwd ant-goal ant-vel half-cheetah-dir half-cheetah-vel walker2d-dir
    walker2d-vel hopper-vel humanoid-dir quadruped-command quadruped-dir quadruped-vel
    quadruped-cripple quadruped-terrain ant-terrain ant-dir-terrain half-cheetah-terrain
    walker2d-terrain ant-cripple half-cheetah-cripple walker2d-params hopper-params ant-friction
    half-cheetah-friction ant-payload ant-gravity ant-wind ant-actuator ant-dir/promp ant-dir/pearl
    ant-dir/varibad arm-reach arm-reach-payload arm-reach-weak
    """.split(),
    200,
)
HORIZONS |= {"navigation-2d": 100, "navigation-2d-sparse": 100, "half-cheetah-dir/rllib": 100}
HORIZONS |= {
    f"{robot}-gravity/resel": 1000
    for robot in ("ant", "half-cheetah", "hopper", "walker2d", "humanoid")
}
"""Built-in environments and their horizon T."""


_REGISTRY = "gymnasium.envs.registration"


def make_id(name: str) -> str:
    """Returns the id of Gymnasium for a name of `metarl.envs.registry`."""
    return "metarl/" + name.replace("/", "-")


def register(*names: str) -> None:
    """Registers the built-in environments, and others by name; skips ids that are registered.

    Args:
        *names: Further names for `metarl.envs.make`, for example "ant-goal-wind". They are not
            checked before they are made.
    """
    from gymnasium.envs import registration

    module = "metarl.envs.wrappers.registration"
    for name in (*HORIZONS, *names):
        env_id = make_id(name)
        if env_id not in registration.registry:
            registration.register(
                env_id,
                entry_point=f"{module}:make_single",
                vector_entry_point=f"{module}:make_vector",
                max_episode_steps=HORIZONS.get(name),
                kwargs={"name": name},
            )


def make_single(
    name: str,
    *,
    task: Sequence[float] | None = None,
    render_mode: str | None = None,
    threads: int = 1,
    observe_task: bool = False,
    observe_terrain: bool = False,
) -> GymEnv:
    """Makes the gymnasium.Env of one robot.

    Args:
        name: A name for `metarl.envs.make`.
        task: The task (D,) of every episode; None draws one at every reset. A task in the options
            of a reset comes before both.
        render_mode: "rgb_array", or None.
        threads: Physics threads; 0 takes all cores.
        observe_task: See `metarl.envs.make`.
        observe_terrain: See `metarl.envs.make`.

    Raises:
        UnknownEnvironment: There is no such name; the message suggests the nearest.
        ValueError: The task is not one of the environment; names its numbers.
    """
    from metarl.envs.registry import make
    from metarl.envs.wrappers.gymnasium import GymEnv

    env = make(name, threads, observe_task=observe_task, observe_terrain=observe_terrain)
    return GymEnv(env, _choose_tasks(env, task), render_mode=render_mode)


def make_vector(
    name: str,
    num_envs: int = 1,
    *,
    task: Sequence[float] | Sequence[Sequence[float]] | None = None,
    threads: int = 0,
    max_episode_steps: int | None = None,
    observe_task: bool = False,
    observe_terrain: bool = False,
) -> GymVectorEnv:
    """Makes the gymnasium.vector.VectorEnv of M robots.

    Args:
        name: A name for `metarl.envs.make`.
        num_envs: M.
        task: One task (D,) for all rows, or one for each (M, D); None draws one for every episode.
            A task in the options of a reset comes before both.
        threads: Physics threads; 0 takes all cores.
        max_episode_steps: Accepted because Gymnasium passes it; must be the horizon or None.
        observe_task: See `metarl.envs.make`.
        observe_terrain: See `metarl.envs.make`.

    Raises:
        UnknownEnvironment: There is no such name; the message suggests the nearest.
        ValueError: The task is not one of the environment, or max_episode_steps is not the horizon.
    """
    from metarl.envs.registry import make
    from metarl.envs.wrappers.gymnasium import GymVectorEnv

    env = make(name, threads, observe_task=observe_task, observe_terrain=observe_terrain)
    if max_episode_steps not in (None, env.spec.horizon):
        raise ValueError(
            f"max_episode_steps = {max_episode_steps}: an episode of {name} has {env.spec.horizon} "
            "steps; vectorization_mode='sync' accepts another limit"
        )
    return GymVectorEnv(env, _choose_tasks(env, task, num_envs), num_envs)


def _choose_tasks(env: BatchEnv, task: Any, num_rows: int | None = None) -> Any:
    from metarl.envs.wrappers.gymnasium import check_task

    return env.spec.tasks if task is None else check_task(env.spec, task, num_rows)


class _RegisterOnImport(importlib.abc.MetaPathFinder):
    """Registers the environments as soon as Gymnasium's registry is imported.

    Gymnasium (1.4) has no hook for packages, and importing it takes longer than `import metarl`.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Finds the module by the other finders and adds the registration behind its execution."""
        if fullname != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: Any) -> None:
                execute(module)
                register()

            loader.exec_module = execute_and_register  # ty: ignore[invalid-assignment]
        return spec


def register_on_import() -> None:
    """Registers the built-in environments, now if Gymnasium is imported, else when it is."""
    if _REGISTRY in sys.modules:
        register()
    elif not any(isinstance(finder, _RegisterOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterOnImport())
