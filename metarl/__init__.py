"""Meta-reinforcement learning for robots: from many tasks, a policy that adapts to a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metarl.envs.wrappers.registration import register_on_import

if TYPE_CHECKING:
    from metarl.api import (
        Robot,
        certify,
        check_env,
        evaluate,
        explain,
        export,
        export_minari,
        film,
        film_together,
        load,
        make_env,
        publish,
        push,
        register_robot,
        report,
        robot_from_mjcf,
        run_policy,
        train,
    )
    from metarl.trained_policy import TrainedPolicy

__version__ = "0.2.0"

__all__ = [
    "Robot",
    "TrainedPolicy",
    "__version__",
    "certify",
    "check_env",
    "evaluate",
    "explain",
    "export",
    "export_minari",
    "film",
    "film_together",
    "load",
    "make_env",
    "publish",
    "push",
    "register_robot",
    "report",
    "robot_from_mjcf",
    "run_policy",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports the functions when they are first used: `import metarl` alone loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}")
    from metarl import api

    return vars(api)[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_on_import()
