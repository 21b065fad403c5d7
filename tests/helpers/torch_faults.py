"""Failures at a chosen operation of torch, as a full memory or Ctrl-C can cause anywhere."""

from torch.utils._python_dispatch import TorchDispatchMode


class FailingOperation(TorchDispatchMode):
    """Counts the operations of the main thread, also of a backward pass; one of them can fail.

    Args:
        number: The operation that fails, from 1 on; 0 only counts.
        error: What it raises.
    """

    def __init__(self, number=0, error=RuntimeError):
        super().__init__()
        self.number, self.error, self.count = number, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.number:
            raise self.error("midway")
        return func(*args, **(kwargs or {}))


def spread(count, number):
    """Returns `number` operations of `count`: the first, the last ones, and some between."""
    last = range(max(1, count - number // 3), count + 1)
    return sorted({1, *last, *(1 + (count - 1) * i // number for i in range(number))})
