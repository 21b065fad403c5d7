"""The contract of a plug-in: a Gymnasium environment with `sample_tasks(rng, n)` and `set_task(task)`.

What else it may have, as attributes or methods: `horizon` (needed unless its registration has a time limit), `dt` [s],
`action_scale`, `task_variables` ((name, unit, low, high) of each number of a task), `task_words(task)`, `floors`,
`sample_test_tasks(rng, n)`.
"""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.tasks import Variable
from metarl.envs.plugins.task_encoding import ADDRESS, TaskForm, common_form, generator

SAMPLES = 64
"""Tasks that are drawn, twice, to see what form they have and whether they repeat."""


class Refused(Exception):
    """The plug-in cannot be run, in words for people."""


@dataclass(frozen=True)
class Facts:
    """What a plug-in says of itself.

    Attributes:
        obs_low: Least observation (S,).
        obs_high: Greatest observation (S,).
        action_low: (A,) [action as sent]; of alternatives 0.
        action_high: (A,); of alternatives 1.
        discrete: Actions are A alternatives.
        horizon: T.
        dt: Duration of a control step [s].
        action_scale: See EnvSpec.
        variables: The D numbers of a task.
        form: How a task is written as numbers; None for opaque tasks.
        held_out: Tasks do not repeat, or there are test tasks.
        test_tasks: There is a sample_test_tasks.
        floors: See EnvSpec.
        pictures: Why there are none; "" if there are.
        summary: First line of its documentation.
    """

    obs_low: np.ndarray
    obs_high: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    discrete: bool
    horizon: int
    dt: float
    action_scale: float
    variables: tuple[Variable, ...]
    form: TaskForm | None
    held_out: bool
    test_tasks: bool
    floors: dict[str, float]
    pictures: str
    summary: str


def found(env: Any, name: str, default: Any = None) -> Any:
    """An attribute of the environment or of anything it wraps."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def draw_tasks(env: Any, draw: int, size: int) -> list[Any]:
    """Draws tasks; a negative draw is one of test tasks."""
    verb = "sample_tasks" if draw >= 0 else "sample_test_tasks"
    stream = generator(draw if draw >= 0 else -1 - draw)
    tasks = list(env.get_wrapper_attr(verb)(stream, size))
    if len(tasks) != size:
        raise Refused(f"{verb}(rng, {size}) returned {len(tasks)} tasks")
    return tasks


def facts_of(env: Any, make: Any) -> Facts:
    """Reads what a plug-in says of itself.

    Raises:
        Refused: It cannot be run; says why.
    """
    lacking = [name for name in ("sample_tasks", "set_task") if found(env, name) is None]
    if lacking:
        raise Refused(
            f"lacks {' and '.join(lacking)}; the contract is sample_tasks(rng, n) and set_task(task)"
        )
    seen, (low, high, discrete) = obs_space(env), action_bounds(env)
    tasks = draw_tasks(env, 0, SAMPLES)
    form = common_form(tasks)
    test_tasks = found(env, "sample_test_tasks") is not None
    return Facts(
        obs_low=seen.low.astype(float),
        obs_high=seen.high.astype(float),
        action_low=low,
        action_high=high,
        discrete=discrete,
        horizon=horizon(env),
        dt=_dt(env),
        action_scale=1.0 if discrete else float(found(env, "action_scale", 1.0)),
        variables=_variables(env, form),
        form=form,
        held_out=test_tasks or not _repeat(tasks, draw_tasks(env, 1, SAMPLES)),
        test_tasks=test_tasks,
        floors=dict(found(env, "floors", {})),
        pictures=_why_no_pictures(env, make),
        summary=(inspect.getdoc(type(env.unwrapped)) or "").partition("\n")[0],
    )


def obs_space(env: Any) -> Any:
    """The space of observations.

    Raises:
        Refused: The observations are no vector of numbers.
    """
    from gymnasium.spaces import Box

    space = env.observation_space
    if isinstance(space, Box) and len(space.shape) == 1:
        return space
    if images := _images(space):
        raise Refused(f"image observations {images[0]} are not supported; give a vector of numbers")
    raise Refused(
        f"the observation space {str(space):.120} is no vector; wrap the environment in "
        "gymnasium.wrappers.FlattenObservation"
    )


def _images(space: Any) -> list[tuple[int, ...]]:
    """Shapes of the images in a space, also of those in the parts of a Dict or Tuple."""
    from gymnasium.spaces import Box, Dict, Tuple

    if isinstance(space, (Dict, Tuple)):
        parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return [shape for part in parts for shape in _images(part)]
    if not isinstance(space, Box):
        return []
    # rows, columns and channels in any order and of any type; bytes may lack the channels
    image = len(space.shape) > (1 if space.dtype == np.uint8 else 2)
    return [space.shape] if image else []


def action_bounds(env: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """Least and greatest action (A,), (A,), and whether actions are A alternatives.

    Raises:
        Refused: The actions are neither a vector of numbers nor alternatives.
    """
    from gymnasium.spaces import Box, Discrete

    space = env.action_space
    if isinstance(space, Discrete):
        size = int(space.n)
        return np.zeros(size), np.ones(size), True
    if not isinstance(space, Box) or len(space.shape) != 1:
        kinds = "a Box of one dimension or Discrete"
        raise Refused(f"the action space {str(space):.120} is not supported; it must be {kinds}")
    return space.low.astype(float), space.high.astype(float), False


def sent(space: Any, action: np.ndarray) -> Any:
    """An action (A,) as an environment with this space takes it; of alternatives the one with the largest entry."""
    if hasattr(space, "n"):
        return space.dtype.type(space.start + np.argmax(action))
    return action.astype(space.dtype)


def horizon(env: Any) -> int:
    """T, from an attribute `horizon` or the time limit of the registration.

    Raises:
        Refused: There is neither, or it is no whole number.
    """
    steps = found(env, "horizon")
    if steps is None and env.spec is not None:
        steps = env.spec.max_episode_steps
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise Refused("says no horizon; give the class one, as in `horizon = 200`")
    return int(steps)


def _dt(env: Any) -> float:
    dt = found(env, "dt")
    if dt is None:
        rate = env.metadata.get("render_fps")
        dt = 1.0 / rate if rate else 1.0
    return float(dt)


def _variables(env: Any, form: TaskForm | None) -> tuple[Variable, ...]:
    if form is None:
        return ADDRESS
    names = form.names()
    said = found(env, "task_variables")
    if said is None:
        return tuple(Variable(name, "1", -np.inf, np.inf) for name in names)
    if len(said) != len(names):
        raise Refused(f"task_variables has {len(said)} entries; a task has {len(names)} numbers")
    return tuple(Variable(name, unit, float(low), float(high)) for name, unit, low, high in said)


def written(tasks: list[Any]) -> list[bytes]:
    """Tasks as bytes, to be compared and never read back; [] if they cannot be written down."""
    try:
        return [pickle.dumps(task) for task in tasks]
    except Exception:  # whatever the plug-in's objects say
        return []


def _repeat(some: list[Any], others: list[Any]) -> bool:
    """Whether tasks of two draws are the same: then they come from a finite set, of which nothing is held out."""
    return not set(written(some)).isdisjoint(written(others))


def _why_no_pictures(env: Any, make: Any) -> str:
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        return "its metadata names no render mode 'rgb_array'"
    try:
        inspect.signature(make).bind(render_mode="rgb_array")
    except (TypeError, ValueError):
        return "its constructor takes no render_mode"
    return ""
