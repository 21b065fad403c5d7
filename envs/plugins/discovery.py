"""Environments that live elsewhere, by three kinds of names.

entry point     a name that an installed package gives in the group `metarl.envs`; loaded only when named
module:thing    a class that follows the contract of `envs/plugins/interface.py`, or a function (name, threads) -> BatchEnv;
                Gymnasium's own form module:Id-v0 too, where importing the module registers the id
Id-v0           an id that is registered with Gymnasium
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl.core.env import BatchEnv
from metarl.core.errors import nearest
from metarl.envs.plugins.subproc_env import PluginFailure, SubprocEnv

GROUP = "metarl.envs"
"""Name of the group of entry points."""


class UnknownEnvironment(ValueError):
    """No environment has this name; the message holds the nearest one."""


def entry_points() -> list[str]:
    """Names that installed packages give; nothing of them is loaded."""
    return sorted(metadata.entry_points(group=GROUP).names)


def find(name: str) -> Callable[..., Any] | None:
    """Finds what a name means.

    Args:
        name: See above.

    Returns:
        A class of Gymnasium environments, a partial of gymnasium.make, or a function (name, threads) -> BatchEnv; None if
        the name is of no such kind.

    Raises:
        UnknownEnvironment: Part of the name is wrong; the message says which and names the nearest.
    """
    for point in metadata.entry_points(group=GROUP, name=name):
        return _attribute(name, point.module, point.attr)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return _registered(name)
    if not module_name or module_name.startswith(".") or not attribute:
        example = "write module:attribute, for example my_robots:MyEnv or my_robots:make_env"
        hint = _no_file(module_name, attribute)
        raise UnknownEnvironment(f"{name!r}: {example}{hint}")
    return _attribute(name, module_name, attribute)


def _attribute(name: str, module_name: str, attribute: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = _no_file(module_name, attribute)
        raise UnknownEnvironment(
            f"{name!r}: no module {error.name!r} can be imported{hint}"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        found = _registered(attribute)
    if found is None:
        callables = [key for key in vars(module) if callable(getattr(module, key))]
        hint = nearest(attribute, callables)
        raise UnknownEnvironment(
            f"{name!r}: {module_name} has no class or function {attribute!r}{hint}"
        )
    return found


def _no_file(path: str, attribute: str) -> str:
    """Words for an error message on a module that was given as a file, or "" where it was not."""
    if not attribute or not (path.endswith(".py") or "/" in path):
        return ""
    folder, parts = "", Path(os.path.relpath(path)).with_suffix("").parts
    if ".." in parts:  # out of reach from here
        folder, parts = f" with PYTHONPATH={Path(path).parent}", parts[-1:]
    return f"; give a module, not a file: {'.'.join(parts)}:{attribute}{folder}"


def _registered(name: str) -> Callable[..., Any] | None:
    """The maker of an id of Gymnasium."""
    import gymnasium

    with contextlib.suppress(gymnasium.error.Error):
        # not the id but what it stands for: a worker process may lack the registration
        return functools.partial(gymnasium.make, gymnasium.spec(name), disable_env_checker=True)
    return None


def build(name: str, thing: Callable[..., Any], threads: int) -> BatchEnv:
    """Makes the environment that `find` found.

    Args:
        name: Put into messages and records.
        thing: See `find`.
        threads: Threads or worker processes; 0 takes all cores.

    Raises:
        PluginFailure: It breaks the contract, or is neither a class of environments nor a function of two arguments.
    """
    import gymnasium

    one_at_a_time = isinstance(thing, functools.partial) and thing.func is gymnasium.make
    if one_at_a_time or (inspect.isclass(thing) and issubclass(thing, gymnasium.Env)):
        return SubprocEnv(name, thing, threads)
    if not _takes(thing, name, threads):
        raise PluginFailure(f"{name}: neither a gymnasium.Env class nor a function (name, threads)")
    return thing(name, threads)


def _takes(function: Callable[..., Any], *arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True  # what is written in C may have no signature: a call will show
    return True
