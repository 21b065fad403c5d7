"""Model fields by the names of `mujoco.batch.Batch.expand`."""

from __future__ import annotations

from typing import Any

OPTION = "opt."
"""Beginning of the names of options among the model fields."""


def locate(model: Any, name: str) -> tuple[Any, str]:
    """Returns the part of a model that holds a field, and the field's name in it.

    Args:
        model: An `MjModel`, or Warp's model.
        name: Of the field; those of options begin with OPTION.
    """
    option = name.removeprefix(OPTION)
    return (model, name) if option == name else (model.opt, option)


def read(model: Any, name: str) -> Any:
    """Returns a field of a model."""
    return getattr(*locate(model, name))
