"""Small baselines of Stable-Baselines3 on navigation."""

from dataclasses import replace

import torch

from metarl.config.schema import SamplerConfig, TrainConfig
from metarl.core.learner import Experience
from metarl.core.machine.parallel import one_torch_thread
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.envs.wrappers.observe_task import ObserveTask
from metarl.envs.wrappers.sb3 import vec_env
from metarl.evaluation import evaluate
from metarl.learners.modes import find_mode
from metarl.learners.sb3.config import Sb3PpoConfig, Sb3Rl2Config, Sb3TrpoConfig
from metarl.learners.sb3.learner import build
from metarl.sampling.sampler import Key

HORIZON = 12
SMALL = {"hidden_sizes": (8,), "epochs": 2, "minibatches": 2, "initial_log_std": -2.0}
LSTM = Sb3Rl2Config(lstm_size=8, epochs=2, minibatches=2, initial_log_std=-2.0)
CASES = {
    "ppo scratch": ("sb3-ppo", Sb3PpoConfig(mode="scratch", **SMALL)),
    "ppo oracle": ("sb3-ppo", Sb3PpoConfig(mode="oracle", normalize=True, **SMALL)),
    "ppo multi-task": ("sb3-ppo", Sb3PpoConfig(mode="multi-task", **SMALL)),
    "trpo scratch": ("sb3-trpo", Sb3TrpoConfig(mode="scratch", normalize=True, **SMALL)),
    "trpo oracle": ("sb3-trpo", Sb3TrpoConfig(mode="oracle", **SMALL)),
    "rl2": ("sb3-rl2", LSTM),
    "rl2 scaled": ("sb3-rl2", replace(LSTM, scale_rewards=True)),
}
SAMPLER = SamplerConfig(num_tasks=3, num_episodes=2, num_adaptations=1)


def small_env(horizon=HORIZON, **goal):
    return NavigationEnv("small", DenseGoal(**goal), horizon=horizon)


def configured(name, seed=0, **changes):
    algo, learner = CASES[name]
    return TrainConfig(
        env="small", algo=algo, seed=seed, learner=learner, sampler=SAMPLER, **changes
    )


def build_baseline(config, env, device="cpu"):
    sampler = config.sampler
    sizes = (sampler.num_tasks, sampler.num_episodes, sampler.num_adaptations)
    experience = Experience(env, env.spec.tasks, vec_env, *sizes)
    options = {"name": config.algo, "seed": config.seed, "device": device}
    return build(config.learner, experience, **options)


class Bench:
    """A baseline on navigation, with a few short episodes."""

    def __init__(self, name, seed=0, env=None, device="cpu", **changes):
        self.config = configured(name, seed, **changes)
        env = env or small_env()
        oracle = find_mode(self.config.learner) == "oracle"
        self.env = ObserveTask(env) if oracle else env
        self.learner = build_baseline(self.config, self.env, device)

    def iterate(self, iterations):
        """Trains; returns the iterations without their times."""
        with one_torch_thread():
            done = [self.learner.iterate(iteration) for iteration in iterations]
        return [replace(each, collect=0.0, update=0.0) for each in done]

    def returns(self, num_adaptations=1):
        tasks = self.learner.tasks
        if tasks is None:
            tasks = evaluate.held_out_tasks(self.env.spec, 0, 6)
        settings = {"num_episodes": 4, "num_adaptations": num_adaptations}
        key = Key(0, "evaluate", 0)
        return evaluate.evaluate(self.env, self.learner, tasks, key=key, **settings).returns


def state(bench):
    return bench.learner.state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys() and len(one) > 0
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key


def is_different(one, other):
    return any(not torch.equal(value, other[key]) for key, value in one.items())
