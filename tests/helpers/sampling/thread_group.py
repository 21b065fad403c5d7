"""A group whose members are threads of this process, for learners that train together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from metarl.training.packing import from_bytes, list_forms, pack, to_bytes, unpack


class ThreadGroup:
    """Member of a group of threads; what it gathers is packed as between processes."""

    def __init__(self, rank, size, slots, barrier):
        self.rank, self.size = rank, size
        self._slots, self._barrier = slots, barrier
        self.count = 0

    def gather(self, make):
        try:
            text, tensors = pack(make())
            forms = list_forms(tensors)
            self._slots[self.rank] = text, forms, to_bytes(tensors, torch.device("cpu"))
        except Exception as error:
            self._slots[self.rank] = error
        self.count += 1
        self._barrier.wait(60)
        found = list(self._slots)
        self._barrier.wait(60)
        for each in found:
            if isinstance(each, Exception):
                raise each
        return [unpack(text, from_bytes(raw, forms)) for text, forms, raw in found]


def run_together(size, function):
    """Calls a function with each of the members of a group, in threads; returns the results."""
    slots, barrier = [None] * size, threading.Barrier(size)
    groups = [ThreadGroup(rank, size, slots, barrier) for rank in range(size)]

    def call(group):
        try:
            return function(group)
        except BaseException:
            barrier.abort()  # the others must not wait
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(call, group) for group in groups]
        errors = [error for each in running if (error := each.exception())]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [each.result() for each in running]
