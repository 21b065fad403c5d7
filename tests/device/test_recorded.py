"""Kernels of RL^2's minibatches are recorded on a GPU, and a recording that fails does no harm."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from metarl.learners.rl2.recorded import RecordedGradient
from metarl.networks.actor_critic import MEMORIES

FIRST_UPDATES = """
import sys
from played_trials import ACTIONS, OBS, play
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2

for memory in sys.argv[1:]:
    config = Rl2Config(memory_size=8, hidden_size=4, minibatches=2, memory=memory)
    learner = Rl2(config, OBS, ACTIONS, seed=0, device="cuda")
    for number in range(2):
        rollouts = play(learner, ragged=False, size=(6, 1), seed=number)
        learner.update(learner.begin(6, 1, ()), rollouts, None)
"""
"""Two updates with each memory, in a process that has done nothing else on the GPU."""

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.cuda
@needs_cuda
def test_first_minibatch_of_a_process_is_recorded():
    helpers = Path(__file__).parents[1] / "helpers" / "sampling"
    path = os.pathsep.join([str(helpers), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", FIRST_UPDATES, *MEMORIES]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "one by one" not in done.stderr and "stream does not match" not in done.stderr, (
        done.stderr
    )


@pytest.mark.cuda
@needs_cuda
def test_failed_recording_leaves_random_numbers_as_they_were():
    device = torch.device("cuda", 0)
    recorded = RecordedGradient(_Nothing(), device)

    def waits():
        return [], torch.ones(3, device=device).cpu()  # no recording may wait for the GPU

    torch.cuda.manual_seed(1)
    expected = torch.rand(5, device=device)
    torch.cuda.manual_seed(1)
    with pytest.warns(UserWarning, match="updates launch kernels one by one"):
        run = recorded._capture(waits)
    assert run is waits and recorded._is_broken
    assert torch.equal(torch.rand(5, device=device), expected)

    def computes():
        return [], torch.ones(3, device=device) * 2.0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recorded._capture(computes)()[1].tolist() == [2.0, 2.0, 2.0]


class _Nothing:
    """A gradient without parameters."""

    parameters = ()
