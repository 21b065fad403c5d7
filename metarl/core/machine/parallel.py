"""Functions over chunks of tasks on a pool of threads, and over the processes of a group.

Every operation runs on one thread and the chunks are summed in order, so results do not depend on
the number of threads. Those of torch's own parallel sums and matrix gradients do (3e-6 between one
and two threads).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from typing import Protocol, TypeVar

import torch

MOST_THREADS = 4
"""Threads beyond which updates gain nothing: they wait for Python's lock. On 16 cores a meta-update
took twice as long with 16 threads as with 2."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_torch_thread() -> Generator[None]:
    """Limits torch to one thread for each calling thread; threads started inside inherit it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_chunks(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> list[Result]:
    """Applies a function to every item.

    The same thread serves the same place among the items in every call, and frees what it
    allocated. An LSTM's update waited 80,000 times for the allocator's locks while its
    backward pass ran in another thread than its forward pass, and 1,000 times since.

    Args:
        function: Called once for each item, from any thread. It must not call this function with
            several threads itself.
        items: Its arguments.
        num_threads: Threads, of which at most MOST_THREADS are used; 1 works in the calling thread,
            on one torch thread too.

    Returns:
        The results, in the order of the items.
    """
    items = list(items)
    with one_torch_thread():
        if num_threads <= 1 or len(items) <= 1:
            return [function(item) for item in items]
        threads = _threads(min(num_threads, MOST_THREADS))
        running = [
            threads[index % len(threads)].submit(function, item) for index, item in enumerate(items)
        ]
        wait(running)  # an exception must not leave others behind
        return [each.result() for each in running]


class Group(Protocol):
    """Processes that train together: each has the same learner, and computes a slice of the work.

    All of them call the same functions of the group in the same order.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int
    size: int

    def gather(self, make: Callable[[], Result]) -> list[Result]:
        """Computes a value in every process; returns those of all, by rank.

        A value is a tensor, a number, a text, None, or a tuple, list or dict of values. It is
        exchanged without arithmetic, so that sums can be taken in a fixed order.

        Raises:
            Exception: That of the first process in which `make` failed, in all processes alike.
            ResourceError: A process has ended, or does not answer.
        """


class _Alone:
    """A group of one process."""

    rank, size = 0, 1

    def gather(self, make: Callable[[], Result]) -> list[Result]:
        return [make()]


ALONE: Group = _Alone()
"""The group of a program that is a single process."""


def own_slice(count: int, group: Group) -> slice:
    """Returns the slice of `count` items that belongs to this process of a group."""
    return slice(count * group.rank // group.size, count * (group.rank + 1) // group.size)


def map_in_group(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_threads: int,
    group: Group = ALONE,
) -> list[Result]:
    """Applies a function to every item, each in one process of a group; see `map_chunks`.

    Args:
        function: Called once for each item; its results can be gathered, see `Group.gather`.
        items: Its arguments, the same in every process.
        num_threads: Threads of each process.
        group: The processes.

    Returns:
        The results of all items, in their order.
    """
    own = items[own_slice(len(items), group)]
    gathered = group.gather(lambda: map_chunks(function, own, num_threads))
    return [result for results in gathered for result in results]


@lru_cache
def _threads(number: int) -> list[ThreadPoolExecutor]:
    """Returns threads that live as long as the process."""
    return [ThreadPoolExecutor(1) for _ in range(number)]


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_threads.cache_clear)
