"""Functions over chunks of tasks on a pool of threads, with one torch thread each.

Every operation runs on one thread and the chunks are summed in order, so results do not depend on
the number of threads. Those of torch's own parallel sums and matrix gradients do (3e-6 between one
and two threads).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

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


@lru_cache
def _threads(number: int) -> list[ThreadPoolExecutor]:
    """Returns threads that live as long as the process."""
    return [ThreadPoolExecutor(1) for _ in range(number)]


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_threads.cache_clear)
