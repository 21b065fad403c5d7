"""Trainings of a few seconds on navigation, for the tests of the trainer."""

import io
import json

import torch

from metarl.builders import training_tasks
from metarl.config.schema import SamplerConfig, TrainConfig
from metarl.envs.registry import make
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.runs import checkpoint
from metarl.runs.logger import RunLog, without_time
from metarl.training.trainer import Trainer, restore

CONFIG = TrainConfig(
    env="navigation-2d",
    iterations=4,
    sampler=SamplerConfig(num_tasks=2, num_episodes=2),
    learner=MamlConfig(hidden_sizes=(8,)),
)


def trainer_in(folder, env=None, config=CONFIG, resume=False, learner=None):
    """A trainer on a fresh folder, or on the newest checkpoint of one."""
    env = env or make("navigation-2d")
    spec = env.spec
    if learner is None:
        learner = Maml(config.learner, spec.obs_size, spec.action_size, seed=0)
    progress = None
    if resume:
        progress = restore(learner, checkpoint.load_newest(folder / "checkpoints"))
    folder.mkdir(exist_ok=True)
    log = RunLog(
        folder,
        total_iterations=config.iterations,
        resume=resume,
        start_iteration=progress.iteration if progress else 0,
        stream=io.StringIO(),
    )
    return Trainer(env, learner, training_tasks(env, config), config, folder, log, progress)


def run(trainer):
    try:
        trainer.run()
    finally:
        trainer.log.close()
    return trainer


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder):
    return checkpoint.load_newest(folder / "checkpoints")


def assert_same_runs(one, other):
    assert [without_time(r) for r in records(one)] == [without_time(r) for r in records(other)]
    left, right = saved(one), saved(other)
    assert left.step == right.step and left.tensors.keys() == right.tensors.keys()
    for name, value in left.tensors.items():
        assert torch.equal(value, right.tensors[name]), name
    for key in ("iteration", "env_steps"):
        assert left.state[key] == right.state[key]
