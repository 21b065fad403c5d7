"""Counts what a program exchanges with a GPU, and simulates a GPU on the CPU.

`HostTraffic` sees every operation of torch, those of a backward pass too. `SimulatedGpu` is the
same with a device of its own, "lazy:0", for machines without a GPU: tensors there are computed on
the CPU, and the rules of a GPU hold. Code that mixes its tensors with others fails, as does NumPy.
"""

import contextlib
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SIMULATED = torch.device("lazy", 0)
"""A device type that torch knows and does not compute on; its backward passes run in the calling
thread."""

READS = {
    "_local_scalar_dense",  # item, float, bool, int, tolist of a number
    "_linalg_check_errors",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_dim",
}
"""Operations that wait for a GPU, because the host needs their result or its size."""

COPIES = {"_to_copy", "copy_"}


def leaves(value):
    """Yields what tuples, lists and dictionaries hold, in a fifth of the time of torch's pytree."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def apply(function, value):
    """Replaces what tuples, lists and dictionaries hold."""
    if isinstance(value, tuple | list):
        return type(value)([apply(function, each) for each in value])
    if isinstance(value, dict):
        return {name: apply(function, each) for name, each in value.items()}
    return function(value)


def find_tensors(value):
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def is_away(tensor):
    return tensor.device.type in ("cuda", SIMULATED.type)


@dataclass
class Counts:
    """Exchanges so far: names of operations that waited, and bytes in both directions."""

    waits: list[str] = field(default_factory=list)
    uploaded: int = 0
    downloaded: int = 0


class HostTraffic(TorchDispatchMode):
    """Counts, while it is active, how often the host waits for a GPU and what is copied."""

    def __init__(self):
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.count(func, args, kwargs)
        return self.compute(func, args, kwargs)

    def compute(self, func, args, kwargs):
        return func(*args, **kwargs)

    def count(self, func, args, kwargs):
        name = func.overloadpacket.__name__
        tensors = find_tensors((args, kwargs))
        if name in COPIES:
            self._count_copy(name, args, kwargs)
        elif any(map(is_away, tensors)):
            if name in READS or name.startswith("index") and _has_mask(args):
                self.counts.waits.append(name)
            for tensor in tensors if name.startswith("index") else ():
                if not is_away(tensor) and tensor.dim():
                    self._upload(f"{name} with an index of the CPU", tensor, waits=True)

    def _count_copy(self, name, args, kwargs):
        if name == "copy_":
            to, source = args[:2]
            is_sent, is_async = is_away(to), kwargs.get("non_blocking") or len(args) > 2 and args[2]
        else:
            source, is_async = args[0], kwargs.get("non_blocking")
            device = kwargs.get("device") or source.device
            is_sent = torch.device(device).type in ("cuda", SIMULATED.type)
        if is_sent and not is_away(source) and source.dim():
            self._upload(name, source, waits=not is_async)
        if is_away(source) and not is_sent:
            self.counts.waits.append(f"{name} to the CPU")
            self.counts.downloaded += source.nbytes

    def _upload(self, name, tensor, *, waits):
        self.counts.uploaded += tensor.nbytes
        if waits:
            self.counts.waits.append(f"{name} from the CPU")

    @contextlib.contextmanager
    def record(self):
        """Yields the counts of the block alone."""
        before, self.counts = self.counts, Counts()
        try:
            yield self.counts
        finally:
            self.counts = before


def _has_mask(args):
    """Tells whether an index of `aten::index` or `aten::index_put` is a mask."""
    return any(
        isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.bool, torch.uint8)
        for leaf in leaves(args[1:2])
    )


class SimulatedTensor(torch.Tensor):
    """A tensor of the simulated GPU; its values are in `held`, on the CPU."""

    @staticmethod
    def __new__(cls, held):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        own = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), dtype=held.dtype, device=SIMULATED, **layout
        )
        own.held = held
        return own

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()  # as torch does for every GPU

    def __repr__(self):
        return f"SimulatedTensor({self.held})"


class SimulatedGpu(HostTraffic):
    """A GPU; its memory can be used up, so that no operation may make a tensor of new memory."""

    def __init__(self):
        super().__init__()
        self.is_full = False

    def compute(self, func, args, kwargs):
        before = {_address(leaf) for leaf in leaves((args, kwargs))}
        result = compute(func, args, kwargs)
        new = {_address(leaf) for leaf in leaves(result)} - before - {None}
        if self.is_full and new:
            raise torch.OutOfMemoryError("simulated GPU: out of memory")
        return result


def _address(leaf):
    """Returns where a simulated tensor's memory begins; None for anything else."""
    is_simulated = isinstance(leaf, SimulatedTensor)
    return leaf.held.untyped_storage().data_ptr() if is_simulated else None


def compute(func, args, kwargs):
    """Computes an operation on the held values; results are where a GPU would leave them."""
    name = func.overloadpacket.__name__
    tensors = find_tensors((args, kwargs))
    away = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
    device = kwargs.get("device")
    if away and name not in COPIES and not name.startswith("index"):
        strangers = [t for t in tensors if not isinstance(t, SimulatedTensor) and t.dim()]
        if strangers:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")

    def held(leaf):
        return leaf.held if isinstance(leaf, SimulatedTensor) else leaf

    if not away and device is None:
        return func(*args, **kwargs)
    own = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    result = func(*apply(held, args), **apply(held, own))
    if name == "copy_":
        return args[0]
    is_result_away = bool(away) if device is None else torch.device(device).type == SIMULATED.type
    if not is_result_away:
        return _copy_if_held(result, away)
    known = {id(tensor.held): tensor for tensor in away}  # results in place, and of out=

    def wrap(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return known.get(id(leaf)) if id(leaf) in known else SimulatedTensor(leaf)

    return apply(wrap, result)


def _copy_if_held(result, away):
    """Returns a result on the CPU that shares no memory with the simulated tensors."""
    if isinstance(result, torch.Tensor) and any(result is tensor.held for tensor in away):
        return result.clone()
    return result
