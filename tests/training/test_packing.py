import pytest
import torch

from metarl.training.packing import from_bytes, list_forms, pack, to_bytes, unpack

CPU = torch.device("cpu")
VALUE = {
    "none": None,
    "numbers": (1, 0.1, True, float("inf")),
    "tensors": [torch.arange(3.0), torch.tensor(True), torch.zeros(2, 0, dtype=torch.float64)],
    "more": {"a": torch.arange(5, dtype=torch.uint8), "b": (torch.tensor([2**40]), "text")},
}


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_equal(list(one.values()), list(other.values()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert one == other


def test_packed_value_is_unpacked_as_it_was():
    text, tensors = pack(VALUE)
    raw = to_bytes(tensors, CPU)
    assert raw.dtype == torch.uint8 and len(raw) == 16 + 8 + 0 + 8 + 8
    assert_equal(unpack(text, from_bytes(raw, list_forms(tensors))), VALUE)


def test_tensor_of_any_layout_is_packed_by_value():
    table = torch.arange(6.0).view(2, 3)
    one = table.new_zeros(()).expand(1).clone()
    assert one.stride() == (0,)
    _, tensors = pack([table.T, table[:, 1], table.requires_grad_(), one, table[::2, :1][:1]])
    found = from_bytes(to_bytes(tensors, CPU), list_forms(tensors))
    assert [each.tolist() for each in found] == [
        [[0, 3], [1, 4], [2, 5]],
        [1, 4],
        [[0, 1, 2], [3, 4, 5]],
        [0],
        [[0]],
    ]
    assert not any(each.requires_grad for each in found)


def test_value_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="a set cannot be exchanged"):
        pack({"a": {1}})
