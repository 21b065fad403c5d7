"""Finds environments outside metarl by name.

entry point     a name that an installed package gives in the group `metarl.envs`; loaded only when
                it is named
module:thing    a class that follows the contract of `envs/plugins/interface.py`, a function without
                required arguments that makes such an environment, or a function
                (name, threads) -> BatchEnv; also Gymnasium's form module:Id-v0, where importing the
                module registers the id
Id-v0           an id that is registered with Gymnasium
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import operator
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl.core.env import BatchEnv
from metarl.core.errors import nearest
from metarl.envs.plugins.subproc_env import TIMEOUT, PluginFailure, SubprocEnv

GROUP = "metarl.envs"
"""Name of the group of entry points."""


class UnknownEnvironment(ValueError):
    """No environment has this name; the message suggests the nearest one."""


def entry_points() -> list[str]:
    """Returns the names that installed packages give, without loading the packages."""
    return sorted(metadata.entry_points(group=GROUP).names)


def find(name: str) -> Callable[..., Any] | None:
    """Finds the environment that a name stands for.

    Args:
        name: See the docstring of this module.

    Returns:
        A class or function as `build` takes it, or a partial of gymnasium.make; None if the name
        has none of the three forms.

    Raises:
        UnknownEnvironment: Part of the name is wrong; the message says which and suggests the
            nearest.
    """
    for point in metadata.entry_points(group=GROUP, name=name):
        return _import_attribute(name, point.module, point.attr)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return _find_gymnasium_id(name)
    if not module_name or module_name.startswith(".") or not attribute:
        example = "write module:attribute, for example my_robots:MyEnv or my_robots:make_env"
        hint = _hint_at_module(module_name, attribute)
        raise UnknownEnvironment(f"{name!r}: {example}{hint}")
    return _import_attribute(name, module_name, attribute)


def _import_attribute(name: str, module_name: str, attribute: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = _hint_at_module(module_name, attribute)
        raise UnknownEnvironment(
            f"{name!r}: no module {error.name!r} can be imported{hint}"
        ) from error
    try:
        thing = operator.attrgetter(attribute)(module)
    except AttributeError:
        thing = None
    if not callable(thing):
        thing = _find_gymnasium_id(attribute)
    if thing is None:
        hint = nearest(attribute, [key for key, value in vars(module).items() if callable(value)])
        raise UnknownEnvironment(
            f"{name!r}: {module_name} has no class or function {attribute!r}{hint}"
        )
    return thing


def _hint_at_module(path: str, attribute: str) -> str:
    """Returns the hint for a module that was given as a file, or "" if it was not."""
    if not attribute or not (path.endswith(".py") or "/" in path):
        return ""
    folder, parts = "", Path(os.path.relpath(path)).with_suffix("").parts
    if ".." in parts:  # Python does not look there for modules
        folder, parts = f" with PYTHONPATH={Path(path).parent}", parts[-1:]
    return f"; give a module, not a file: {'.'.join(parts)}:{attribute}{folder}"


def _find_gymnasium_id(name: str) -> Callable[..., Any] | None:
    """Returns a maker of the environment that is registered with Gymnasium, or None."""
    import gymnasium

    with contextlib.suppress(gymnasium.error.Error):
        # the spec instead of the id: a worker process may lack the registration
        return functools.partial(gymnasium.make, gymnasium.spec(name), disable_env_checker=True)
    return None


def build(name: str, thing: Callable[..., Any], threads: int, timeout: float = TIMEOUT) -> BatchEnv:
    """Makes an environment from what `find` returned, or from an object of the same kind.

    Args:
        name: Put into messages and records.
        thing: A class of Gymnasium environments, a function that makes one without arguments, or
            a class or function (name, threads) -> BatchEnv.
        threads: Threads or worker processes; 0 takes all cores.
        timeout: Of worker processes, see TIMEOUT.

    Raises:
        PluginFailure: It breaks the contract, or is of another kind.
    """
    import gymnasium

    is_env_class = inspect.isclass(thing) and issubclass(thing, gymnasium.Env)
    if is_env_class or _makes_one(thing):
        return SubprocEnv(name, thing, threads, timeout=timeout)
    if not _accepts(thing, name, threads):
        kinds = "a gymnasium.Env class, a function that makes one without arguments, or a function"
        raise PluginFailure(f"{name}: is a {_describe(thing)}; must be {kinds} (name, threads)")
    return thing(name, threads)


def _makes_one(thing: Callable[..., Any]) -> bool:
    """Returns whether a function makes one Gymnasium environment, not a batch of them.

    It does if it needs no argument, unless its first two parameters are called name and threads.
    """
    if inspect.isclass(thing) or not _accepts(thing):
        return False
    try:
        parameters = list(inspect.signature(thing).parameters)
    except ValueError:
        return False
    return parameters[:2] != ["name", "threads"]


def _describe(thing: Callable[..., Any]) -> str:
    """Describes a thing that makes no environment, for example "function (size)"."""
    if inspect.isclass(thing):
        return "class that is no gymnasium.Env"
    return f"function {inspect.signature(thing)}"


def _accepts(function: Callable[..., Any], *arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True  # a function written in C may have no signature; the call itself will fail
    return True
