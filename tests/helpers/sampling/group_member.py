"""A process of a group, started with the variables of torchrun: `group_member.py CASE [WORDS]`."""

import atexit
import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from metarl.cli import train
from metarl.core.errors import MetarlError, NumericalError, ResourceError
from metarl.envs.navigation import NavigationEnv
from metarl.training.distributed import ProcessGroup, require_same
from metarl.training.launch import read_launch


def exchange():
    """Exchanges values of all sizes, and failures; prints what cannot be."""
    launch = read_launch()
    group = ProcessGroup(launch, patience=timedelta(seconds=60))
    rank, size = group.rank, group.size
    assert group.gather(lambda: rank) == list(range(size))
    numbers = group.gather(lambda: {"own": torch.full((rank * 5000,), rank, dtype=torch.float64)})
    for other, found in enumerate(numbers):
        assert torch.equal(found["own"], torch.full((other * 5000,), other, dtype=torch.float64))
    assert group.gather(lambda: None if rank else "é" * 9000) == ["é" * 9000] + [None] * (size - 1)
    for kind, text in ((FloatingPointError, "task 7"), (NumericalError, "x")):
        try:
            group.gather(lambda kind=kind, text=text: fail(kind, text) if rank == 1 else 0)
        except kind as error:
            assert str(error) == text
    try:
        group.gather(lambda: fail(KeyError, rank))
    except (KeyError, RuntimeError) as error:
        assert str(error) == ("0" if rank == 0 else "process 0: KeyError: 0")
    try:
        group.gather(lambda: fail(OSError, 28, "No space left") if rank == 1 else 0)
    except (OSError, ResourceError) as error:
        assert type(error) is (OSError if rank == 1 else ResourceError)
        assert str(error) == "[Errno 28] No space left"
    try:
        group.gather(do_this if rank == 1 else do_that)
    except ResourceError as error:
        assert "do different work" in str(error) and "<function do_this" in str(error)
    try:
        require_same(group, {"same": "1", "seed": str(rank // 2)})
    except MetarlError as error:
        assert "seed is 1 in process 2, and 0 in process 0" in str(error)
    group.leave()
    again = ProcessGroup(launch, patience=timedelta(seconds=60))
    try:
        with again.share_failures():
            if rank == 1:
                raise ValueError("outside of an exchange")
            again.gather(lambda: rank)
    except ValueError as error:
        assert str(error) == "outside of an exchange"
    again.leave()
    print("done")


def stay():
    """Ends without leaving the group; prints whether it is left before the interpreter ends."""
    atexit.register(lambda: print("left" if not dist.is_initialized() else "not left"))
    group = ProcessGroup(read_launch(), patience=timedelta(seconds=60))
    assert group.gather(lambda: group.rank) == list(range(group.size))


def fail(kind, *words):
    raise kind(*words)


def do_this():
    return 1


def do_that():
    return 1


def misbehave(words):
    """Trains with an environment that fails, or ends its process, in the second one."""
    kind, *words = words
    original, calls = NavigationEnv.set_tasks, []

    def set_tasks(self, *args):
        calls.append(1)
        if read_launch().rank == 1 and len(calls) == 3:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no such task")
        return original(self, *args)

    NavigationEnv.set_tasks = set_tasks
    sys.exit(train.main(words))


if __name__ == "__main__":
    case, *rest = sys.argv[1:]
    {"exchange": exchange, "stay": stay}.get(case, lambda: misbehave(rest))()
