"""Names of environments that stand for a file."""

from __future__ import annotations

from pathlib import Path


def split_robot_file(name: str) -> tuple[Path, str] | None:
    """Splits the name `my_robot.yaml:goal-variation` of an environment; None for other names."""
    file, _, parts = name.rpartition(":")
    return (Path(file), parts) if file.endswith((".yaml", ".yml")) else None
