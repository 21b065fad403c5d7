"""Values with tensors as NumPy arrays, which are sent between processes without a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.sampling.recording import aligned_zeros


@dataclass(frozen=True)
class Packed:
    """A value whose tensors are arrays.

    Attributes:
        form: The value with a `Slot` in place of each tensor, and a `Record` of each dataclass.
        arrays: Each tensor once, however often the value has it.
    """

    form: Any
    arrays: list[np.ndarray]

    def num_bytes(self) -> int:
        """Returns the size of the arrays [bytes]."""
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class Slot:
    """Place of a tensor.

    Attributes:
        index: Of its array.
        copies: Size of the first axis of a view that repeats its array; 0 if it does not.
        offset: Bytes between its first number and the multiple of 64 before. Kept, because the last
            bit of a product of few rows depends on where its memory begins.
    """

    index: int
    copies: int
    offset: int


@dataclass(frozen=True)
class Record:
    """A dataclass: its class and its packed fields."""

    kind: type
    values: dict[str, Any]


def pack(value: Any) -> Packed:
    """Packs a tree of dataclasses, dicts, lists and tuples with tensors; others stay as they are.

    Tensors of a GPU are copied to the CPU.
    """
    arrays: list[np.ndarray] = []
    return Packed(_pack(value, arrays, {}), arrays)


def _pack(value: Any, arrays: list[np.ndarray], known: dict[Any, Slot]) -> Any:
    if isinstance(value, Tensor):
        return _pack_tensor(value, arrays, known)
    if is_dataclass(value) and not isinstance(value, type):
        own = ((each.name, vars(value)[each.name]) for each in fields(value))
        return Record(type(value), {name: _pack(each, arrays, known) for name, each in own})
    if type(value) is dict:
        return {name: _pack(each, arrays, known) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_pack(each, arrays, known) for each in value)
    return value


def _pack_tensor(value: Tensor, arrays: list[np.ndarray], known: dict[Any, Slot]) -> Slot:
    value = value.detach()
    key = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
    if key not in known:
        is_repeated = value.ndim > 1 and len(value) > 1 and value.stride(0) == 0
        copies = len(value) if is_repeated else 0
        known[key] = Slot(len(arrays), copies, value.data_ptr() % 64)
        arrays.append((value[0] if is_repeated else value).cpu().numpy())
    return known[key]


def unpack(packed: Packed, given: Mapping[int, Tensor] | None = None) -> Any:
    """Returns the value, with its tensors in memory of their own.

    Args:
        packed: The packed value.
        given: Tensors to use in place of arrays, by their number.
    """
    tensors = dict(given or {})
    return _unpack(packed.form, packed.arrays, tensors)


def _unpack(form: Any, arrays: Sequence[np.ndarray], tensors: dict[int, Tensor]) -> Any:
    if isinstance(form, Slot):
        if form.index not in tensors:
            source = arrays[form.index]
            own = aligned_zeros(source.shape, source.dtype, form.offset)
            own[...] = source
            tensors[form.index] = torch.from_numpy(own)
        tensor = tensors[form.index]
        return tensor.expand(form.copies, *tensor.shape) if form.copies else tensor
    if isinstance(form, Record):
        values = {name: _unpack(each, arrays, tensors) for name, each in form.values.items()}
        return form.kind(**values)
    if type(form) is dict:
        return {name: _unpack(each, arrays, tensors) for name, each in form.items()}
    if type(form) in (list, tuple):
        return type(form)(_unpack(each, arrays, tensors) for each in form)
    return form


def to_tree(packed: Packed) -> dict[str, Any]:
    """Returns a packed value as one that the processes of a group can gather, see `Group`.

    Raises:
        TypeError: A part of it is neither a tensor nor a number or text.
    """
    # torch warns of arrays that Ray shares between processes, which cannot be written
    owned = (array if array.flags.writeable else array.copy() for array in packed.arrays)
    arrays = [torch.from_numpy(array) for array in owned]
    return {"form": _describe(packed.form), "arrays": arrays}


def _describe(form: Any) -> dict[str, Any]:
    if isinstance(form, Slot):
        return {"slot": [form.index, form.copies, form.offset]}
    if isinstance(form, Record):
        values = {name: _describe(each) for name, each in form.values.items()}
        return {"record": _name(form.kind), "values": values}
    if type(form) is dict:
        return {"dict": {name: _describe(each) for name, each in form.items()}}
    if type(form) in (list, tuple):
        return {type(form).__name__: [_describe(each) for each in form]}
    if form is None or isinstance(form, bool | int | float | str):
        return {"value": form}
    raise TypeError(f"a {type(form).__name__} cannot be exchanged between processes")


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def list_kinds(form: Any) -> dict[str, type]:
    """Returns the dataclasses of a packed value by name."""
    if isinstance(form, Record):
        return _join_kinds(form.values.values()) | {_name(form.kind): form.kind}
    if type(form) is dict:
        return _join_kinds(form.values())
    return _join_kinds(form) if type(form) in (list, tuple) else {}


def _join_kinds(forms: Iterable[Any]) -> dict[str, type]:
    return {name: kind for each in forms for name, kind in list_kinds(each).items()}


def from_tree(tree: Mapping[str, Any], kinds: Mapping[str, type]) -> Packed:
    """Returns a packed value of another process.

    Args:
        tree: Its `to_tree`.
        kinds: The dataclasses that it may have, see `list_kinds`.

    Raises:
        ValueError: It has another dataclass.
    """
    return Packed(_restore(tree["form"], kinds), [array.numpy() for array in tree["arrays"]])


def _restore(tree: Mapping[str, Any], kinds: Mapping[str, type]) -> Any:
    if "slot" in tree:
        return Slot(*tree["slot"])
    if "record" in tree:
        if tree["record"] not in kinds:
            raise ValueError(f"a result of another process has a {tree['record']}, and none here")
        values = {name: _restore(each, kinds) for name, each in tree["values"].items()}
        return Record(kinds[tree["record"]], values)
    if "dict" in tree:
        return {name: _restore(each, kinds) for name, each in tree["dict"].items()}
    if "value" in tree:
        return tree["value"]
    own = [_restore(each, kinds) for each in tree.get("list", tree.get("tuple"))]
    return own if "list" in tree else tuple(own)
