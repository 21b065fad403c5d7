"""Peak memory of tensors, counted operation by operation, so that it is the same in every run."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class PeakMemory(TorchDispatchMode):
    """Counts the memory of tensors that are made within it, on the main thread.

    Attributes:
        peak: Largest memory of tensors alive at the same time [bytes].
    """

    def __init__(self):
        super().__init__()
        self.peak = self._present = 0
        self._known = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return result

    def _count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def forget(_):
            del self._known[key]
            self._present -= size

        self._known[key] = weakref.ref(storage, forget)
        self._present += size
        self.peak = max(self.peak, self._present)
