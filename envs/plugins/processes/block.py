"""Arrays in shared memory, through which a trainer and its worker processes exchange numbers."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from metarl.core.errors import ResourceError

_ARRAYS = ("obs", "action", "reward", "ended", "stepped")


class Block:
    """Arrays of M rows in shared memory.

    Attributes:
        obs: (M, S) float64.
        action: (M, A) float64, as sent.
        reward: (M,) float64.
        ended: (M,) bool, the episode ended in this step.
        stepped: (M,) bool, the row is to be stepped.

    Args:
        num_rows: M.
        obs_size: S.
        action_size: A.
        name: Name of an existing block; None creates one.
    """

    def __init__(self, num_rows: int, obs_size: int, action_size: int, name: str | None = None):
        shapes = {
            "obs": ((num_rows, obs_size), float),
            "action": ((num_rows, action_size), float),
            "reward": ((num_rows,), float),
            "ended": ((num_rows,), bool),
            "stepped": ((num_rows,), bool),
        }
        sizes = [int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values()]
        fresh = f"metarl-{os.getpid()}-{secrets.token_hex(4)}"  # tells users whose memory it is
        self._memory = SharedMemory(name=name or fresh, create=name is None, size=sum(sizes))
        self.name = self._memory.name
        self._is_creator, self._is_unlinked = name is None, False
        if name is None:
            self._reserve(sum(sizes))
        self.num_rows = num_rows
        offset = 0
        for (key, (shape, kind)), size in zip(shapes.items(), sizes, strict=True):
            setattr(self, key, np.ndarray(shape, kind, self._memory.buf, offset))
            offset += size

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    stepped: np.ndarray

    def _reserve(self, size: int) -> None:
        """Reserves the memory, because a page that is missing later would kill the process.

        Raises:
            ResourceError: There is too little; the memory is released.
        """
        path = f"/dev/shm/{self.name}"
        if not os.path.exists(path):
            return  # not Linux
        handle = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                return  # this file system cannot reserve
            self._memory.close()
            self.unlink()
            hint = "enlarge it (docker run --shm-size=1g), or take fewer --sampler.num-tasks"
            text = f"/dev/shm has no room for {size:,} bytes of observations"
            raise ResourceError(f"{text}; {hint}") from error
        finally:
            os.close(handle)

    def unlink(self) -> None:
        """Deletes the name of the memory, which lives on in the processes that have opened it.

        So no other program can take it away, and nothing is left of a trainer that is killed.
        """
        if not self._is_unlinked:
            self._is_unlinked = True
            with suppress(FileNotFoundError):
                self._memory.unlink()

    def copy(self) -> Block:
        """Returns a block of its own name with the same contents."""
        other = Block(self.num_rows, self.obs.shape[1], self.action.shape[1])
        for key in _ARRAYS:
            vars(other)[key][:] = vars(self)[key]
        return other

    def release(self) -> None:
        """Closes the memory; its creator also deletes its name."""
        for key in _ARRAYS:
            setattr(self, key, None)  # a view keeps the memory open
        self._memory.close()
        if self._is_creator:
            self.unlink()
