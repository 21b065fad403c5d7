import threading
import time

import pytest
import torch

from metarl.core.machine.parallel import map_chunks


@pytest.fixture
def two_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_map_chunks_returns_results_in_order(num_threads):
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0.0)
        return item * item

    assert map_chunks(slow_first, range(5), num_threads) == [0, 1, 4, 9, 16]


def test_map_chunks_without_items_is_empty():
    assert map_chunks(abs, [], 4) == []


def test_map_chunks_is_parallel_with_several_threads_only():
    both_there = threading.Barrier(2, timeout=5)
    idents = map_chunks(lambda _: (both_there.wait(), threading.get_ident())[1], range(2), 2)
    assert len(set(idents)) == 2
    assert map_chunks(lambda _: threading.get_ident(), range(2), 1) == [threading.get_ident()] * 2


@pytest.mark.parametrize(("num_threads", "num_items"), [(1, 3), (2, 1), (3, 3)])
def test_map_chunks_uses_one_torch_thread_per_item(two_torch_threads, num_threads, num_items):
    counts = map_chunks(lambda _: torch.get_num_threads(), range(num_items), num_threads)
    assert counts == [1] * num_items
    assert torch.get_num_threads() == 2


def test_gradients_do_not_depend_on_the_thread_count(two_torch_threads):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3000, 40, generator=generator) for _ in range(2)]
    weight = torch.randn(40, 40, generator=generator)

    def gradient(x):
        own = weight.clone().requires_grad_()
        return torch.autograd.grad((x @ own).tanh().square().sum(), own)[0]

    one, two = map_chunks(gradient, inputs, 1), map_chunks(gradient, inputs, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_map_chunks_error_restores_torch_threads(two_torch_threads, num_threads):
    def fail(item):
        if item == 1:
            raise FloatingPointError("task 1: the gradient of 'bias0' is not finite")

    with pytest.raises(FloatingPointError, match="task 1: the gradient of 'bias0'"):
        map_chunks(fail, range(3), num_threads)
    assert torch.get_num_threads() == 2
