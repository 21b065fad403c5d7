"""Task distributions and batched robot environments on NumPy and MuJoCo, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.envs.registry import make

__all__ = ["make"]


def __getattr__(name: str) -> Any:
    """Imports `make` when it is first used, because the registry imports MuJoCo."""
    if name not in __all__:
        raise AttributeError(f"module 'metarl.envs' has no attribute {name!r}")
    from metarl.envs.registry import make

    return make
