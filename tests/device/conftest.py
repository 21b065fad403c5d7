"""The device of the tests: a simulated GPU everywhere, and a real one where there is one."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from host_traffic import SIMULATED, HostTraffic, SimulatedGpu


class Simulated:
    """The simulated GPU of `host_traffic`."""

    device = SIMULATED

    def __init__(self, traffic):
        self.traffic = traffic

    @contextlib.contextmanager
    def full(self):
        """Leaves no memory on the GPU during the block."""
        self.traffic.is_full = True
        try:
            yield
        finally:
            self.traffic.is_full = False

    @contextlib.contextmanager
    def synchronisations(self):
        """Yields what the driver says of waits in the block: nothing here."""
        yield []


class Cuda:
    """The first CUDA device."""

    device = torch.device("cuda", 0)

    def __init__(self, traffic):
        self.traffic = traffic

    @contextlib.contextmanager
    def full(self):
        """Leaves no free parts of cached memory during the block, down to torch's least, 512 B."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.0, self.device)
        held = [self._take(2**size) for size in range(30, 8, -1)]
        try:
            yield
        finally:
            held.clear()
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def _take(self, size):
        """Returns all arrays of some bytes that fit into cached memory."""
        taken = []
        with contextlib.suppress(torch.OutOfMemoryError):
            while True:
                taken.append(torch.empty(size, dtype=torch.uint8, device=self.device))
        return taken

    @contextlib.contextmanager
    def synchronisations(self):
        """Yields the warnings with which torch reports each wait in the block."""
        found = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found += [w for w in caught if "called a synchronizing" in str(w.message)]


@pytest.fixture(params=["simulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def gpu(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"no GPU here: torch {torch.__version__} sees none")
    kind, traffic = (
        (Cuda, HostTraffic()) if request.param == "cuda" else (Simulated, SimulatedGpu())
    )
    with traffic:
        yield kind(traffic)


@pytest.fixture
def all_double(double, monkeypatch):
    """Makes float64 also what code names as float32, so that whole trainings are in float64."""
    monkeypatch.setattr(np, "float32", np.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.fixture
def double():
    """Makes float64 torch's default type during a test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
