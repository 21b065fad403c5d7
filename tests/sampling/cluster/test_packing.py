"""Tensors of contexts as arrays."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from metarl.sampling.cluster.packing import (
    Packed,
    Slot,
    from_tree,
    list_kinds,
    pack,
    to_tree,
    unpack,
)
from metarl.training import packing


@dataclass(frozen=True)
class Pair:
    one: torch.Tensor
    rest: tuple


def test_packed_values_come_back_equal():
    value = Pair(torch.randn(3, 2), ({"a": torch.tensor(True), "b": 3}, [None, "text"]))
    found = unpack(pack(value))
    assert torch.equal(found.one, value.one) and isinstance(found, Pair)
    assert found.rest[0]["a"].item() is True and found.rest[0]["b"] == 3
    assert found.rest[1] == [None, "text"]


def test_shared_tensors_are_sent_once_and_stay_shared():
    one = torch.randn(4)
    packed = pack((one, {"same": one.view(4)}, one[1:]))
    assert len(packed.arrays) == 2 and packed.num_bytes() == 4 * 7
    first, group, _ = unpack(packed)
    assert group["same"].data_ptr() == first.data_ptr()


def test_repeated_rows_are_sent_once():
    packed = pack(torch.arange(3.0).expand(5, 3))
    found = unpack(packed)
    assert packed.num_bytes() == 12 and found.shape == (5, 3) and found.stride(0) == 0


def test_memory_begins_where_it_began():
    whole = torch.zeros(64)
    for start in (0, 1, 5, 16):
        found = unpack(pack(whole[start : start + 7]))
        assert found.data_ptr() % 64 == whole[start:].data_ptr() % 64


def test_given_tensors_replace_arrays():
    packed, own = pack((torch.zeros(2), torch.ones(2))), torch.full((2,), 7.0)
    assert unpack(packed, {1: own})[1] is own


def exchange(packed, kinds):
    """Sends a packed value as processes do."""
    text, tensors = packing.pack(to_tree(packed))
    return from_tree(packing.unpack(text, tensors), kinds)


def test_packed_values_come_back_from_another_process():
    value = Pair(torch.randn(3, 2), ({"a": torch.tensor(True), "b": 3}, [None, "text", (1.5,)]))
    packed = pack([value, torch.zeros(4).expand(2, 4)])
    found = exchange(packed, list_kinds(packed.form))
    assert found.form == packed.form and isinstance(found.form[1], Slot)
    assert torch.equal(unpack(found)[0].one, value.one)
    assert unpack(found)[0].rest[1] == [None, "text", (1.5,)]


def test_values_that_processes_cannot_exchange_are_refused():
    packed = pack([Pair(torch.zeros(1), ())])
    with pytest.raises(ValueError, match="has a .*test_packing:Pair, and none here"):
        exchange(packed, {})
    with pytest.raises(TypeError, match="a Random cannot be exchanged"):
        to_tree(pack({"rng": random.Random(0)}))


def test_arrays_that_cannot_be_written_are_copied():
    array = np.zeros(3)
    array.setflags(write=False)
    tree = to_tree(Packed(Slot(0, 0, 0), [array]))
    tree["arrays"][0][0] = 1.0
    assert array[0] == 0.0
