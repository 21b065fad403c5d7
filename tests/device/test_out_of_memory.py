"""A GPU without memory is one line with a hint, and the run goes on where it was."""

from dataclasses import replace

import pytest
import torch
from small_training import CONFIG, records, run, saved, trainer_in

from metarl.config.schema import SamplerConfig
from metarl.core.errors import ResourceError
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2

LEARNERS = {
    "maml-trpo": (Maml, MamlConfig()),
    "rl2": (Rl2, Rl2Config(epochs=1, minibatches=1, memory="mingru")),
}


def configured(name, gpu):
    """A training of two iterations, on a GPU with arrays of 6 MB, more than its cache leaves."""
    size = 16 if gpu.device.type == "cuda" else 2
    sampler = SamplerConfig(num_tasks=size, num_episodes=size)
    own = {"sampler": sampler, "algo": name, "learner": LEARNERS[name][1]}
    return replace(CONFIG, iterations=2, **own)


def build(name, device):
    kind, config = LEARNERS[name]
    return kind(config, 2, 2, seed=0, device=device)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", LEARNERS)
def test_update_without_memory_saves_the_state_before_it(name, number, gpu, tmp_path):
    config, learner = configured(name, gpu), build(name, gpu.device)
    trainer = trainer_in(tmp_path, config=config, learner=learner)
    update, states = learner.update, []

    def update_without_memory(*arguments):
        states.append(learner.state_dict())
        if len(states) <= number:
            return update(*arguments)
        with gpu.full():
            return update(*arguments)

    learner.update = update_without_memory
    hint = "the state is saved; use --device cpu, or fewer --sampler.num-tasks in a new run"
    with pytest.raises(ResourceError, match=f"^no GPU memory left, {hint}$") as caught:
        run(trainer)
    assert caught.value.exit_code == 6 and len(states) == number + 1
    assert saved(tmp_path).step == number
    for name_, value in saved(tmp_path).tensors.items():
        assert torch.equal(value, states[-1][name_]), name_
    run(trainer_in(tmp_path, config=config, learner=build(name, "cpu"), resume=True))
    assert [record["iteration"] for record in records(tmp_path)] == [1, 2]


@pytest.mark.parametrize("name", LEARNERS)
def test_state_can_be_saved_without_memory(name, gpu):
    learner = build(name, gpu.device)
    before = learner.state_dict()
    with gpu.full():
        after = learner.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
