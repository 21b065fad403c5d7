"""A checkpoint from a GPU resumes on a CPU and the other way round, bit for bit in the state."""

from dataclasses import replace

import pytest
import torch
from played_trials import ACTIONS, OBS, adapt, play

from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.runs import checkpoint

MAML = MamlConfig(hidden_sizes=(5, 4), normalize_obs=True)
RL2 = Rl2Config(memory_size=8, hidden_size=4, epochs=2, minibatches=2, target_kl=0.01)
CASES = {
    "maml-trpo": (Maml, MAML),
    "maml-trpo, elu": (Maml, replace(MAML, activation="elu")),
    **{f"rl2, {memory}": (Rl2, replace(RL2, memory=memory)) for memory in MEMORIES},
    "rl2, own": (Rl2, replace(RL2, value_memory="own", actor="hypernetwork")),
}


def build(case, device):
    kind, config = CASES[case]
    return kind(config, OBS, ACTIONS, seed=0, device=device)


def train(learner, number):
    rollouts = play(learner, seed=number)
    return learner.update(adapt(learner, rollouts), rollouts, None)


def transfer(folder, number, learner, other):
    """Saves one learner and loads the other; compares their states and actions bit for bit."""
    checkpoint.save(folder, number, learner.state_dict(), {})
    other.load_state_dict(checkpoint.load_newest(folder).tensors)
    saved, loaded = learner.state_dict(), other.state_dict()
    assert saved.keys() == loaded.keys()
    for name, value in saved.items():
        assert value.device.type == "cpu"
        assert value.dtype == loaded[name].dtype and torch.equal(value, loaded[name]), name
    played = [play(each, seed=99, num_adaptations=0)[0] for each in (learner, other)]
    assert torch.equal(played[0].action, played[1].action)


@pytest.mark.parametrize("case", CASES)
def test_checkpoint_moves_between_gpu_and_cpu(case, gpu, tmp_path):
    on_gpu, on_cpu = build(case, gpu.device), build(case, "cpu")
    start = on_gpu.state_dict()
    train(on_gpu, 0)
    train(on_gpu, 1)
    transfer(tmp_path, 2, on_gpu, on_cpu)
    train(on_cpu, 2)
    transfer(tmp_path, 3, on_cpu, on_gpu)
    train(on_gpu, 3)
    after = on_gpu.state_dict()
    assert int(after["updates"]) == 4
    assert any(not torch.equal(start[n], after[n]) for n in start if n.startswith("policy/"))


@pytest.mark.parametrize("case", CASES)
def test_same_seed_starts_equal_on_gpu_and_cpu(case, gpu):
    one, other = (build(case, device).state_dict() for device in ("cpu", gpu.device))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
