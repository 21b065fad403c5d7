"""The run folder of a training, which may be moved or removed while it is trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from metarl.config.schema import TrainConfig, to_yaml
from metarl.config.trust import resume_command
from metarl.core.errors import ResourceError
from metarl.core.machine.files import name_disk_failures, write_atomically
from metarl.runs import folder


class FolderLost(ResourceError):
    """A run folder was moved or removed while it was trained; names the folder with its state.

    Args:
        text: The message.
        is_new: That folder is a new one, which has the settings alone until the state is saved.
    """

    def __init__(self, text: str, *, is_new: bool = False):
        super().__init__(text)
        self.is_new = is_new


class Place:
    """A folder that this process works in, and finds again where it was moved to.

    Its path may lead to another run by then, into which nothing of this one must be written.

    Args:
        path: The folder.

    Attributes:
        path: Where it was found last.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None
        self._name = ""

    def __enter__(self) -> Place:
        self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = self._read_name()
        return self

    def __exit__(self, *error: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_lost(self) -> bool:
        """Returns whether the folder was moved or removed since it was opened or found."""
        return self._read_name() not in ("", self._name)

    def find(self, config: TrainConfig[Any]) -> FolderLost:
        """Sets the path to the folder where it is now, or to a new one if it was removed.

        The new one has the old path, or one beside it if that is taken.

        Args:
            config: The settings of the run.

        Returns:
            The error to raise as soon as the state is saved in the folder.

        Raises:
            ResourceError: A new folder cannot be created.
        """
        before, name = self.path, self._read_name()
        is_new = not (self._handle is not None and _is_same(name, self._handle))
        self.path, self._name = _make_other(before, config) if is_new else Path(name), name
        text = f"{before} was moved while it was trained; the state is saved in {self.path}"
        if is_new:
            text = f"{before} was removed while it was trained; "
            text += f"settings and state are saved in {self.path}, and nothing else is left"
        hint = f"resume with: {resume_command(self.path, config.env, config.algo)}"
        return FolderLost(f"{text}; {hint}", is_new=is_new)

    def _read_name(self) -> str:
        """Returns the path of the open folder, "" where the system does not tell it."""
        try:
            return "" if self._handle is None else os.readlink(f"/proc/self/fd/{self._handle}")
        except OSError:
            return ""


def _make_other(path: Path, config: TrainConfig[Any]) -> Path:
    """Creates a folder with the settings of a run at a path, or beside it if that is taken."""
    other, count = path, 1
    while os.path.lexists(other):
        count += 1
        other = path.with_name(f"{path.name}-{count}")
    folder.create(other)
    with name_disk_failures(other):
        write_atomically(other / "config.yaml", to_yaml(config))
    return other


def _is_same(name: str, handle: int) -> bool:
    """Returns whether a path leads to an open folder."""
    try:
        return os.path.samestat(os.stat(name), os.fstat(handle))
    except OSError:
        return False
