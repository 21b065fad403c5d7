"""Small trainings of several learners, here or by another collector."""

from contextlib import closing

from metarl.builders import build_env, build_learner, training_tasks
from metarl.collecting import collecting_env
from metarl.config.schema import build_config
from metarl.core.rng import stream
from metarl.sampling.sampler import Collector
from metarl.sampling.trials import Key

SMALL = {"hidden_sizes": [8]}
MEMORY = {"memory_size": 16, "hidden_size": 16}
GUESS = {"hidden_sizes": [8], "encoder_sizes": [8], "update_ratio": 0.002, "guess": "step"}
CASES = {
    "maml": ("maml-trpo", "navigation-2d", SMALL),
    "cavia": ("cavia", "navigation-2d", SMALL),
    "anil": ("anil", "navigation-2d", SMALL),
    "meta-sgd": ("meta-sgd", "navigation-2d", SMALL),
    "maml-ppo": ("maml-ppo", "navigation-2d", SMALL),
    "normalized": ("maml-trpo", "navigation-2d", {**SMALL, "normalize_obs": True}),
    "rl2": ("rl2", "navigation-2d", MEMORY),
    "teacher": ("teacher-student", "navigation-2d", {**MEMORY, "teacher_updates": 1}),
    "robot": ("maml-trpo", "half-cheetah-dir", SMALL),
    "robot rl2": ("rl2", "half-cheetah-dir", MEMORY),
    "robot pearl": ("pearl", "half-cheetah-dir", GUESS),
    "mirror": ("maml-trpo", "quadruped-dir", SMALL),
    "odd mirror": ("rl2", "quadruped-dir", MEMORY),
}


def config_of(case, **sampler):
    algo, env, learner = CASES[case]
    sizes = {"num_tasks": 5, "num_episodes": 3, "num_adaptations": 1, "threads": 1}
    if env != "navigation-2d":
        sizes["slices"] = 2
    sizes["mirror"] = "mirror" in case
    settings = {"sampler": sizes | sampler, "learner": learner, "iterations": 5}
    return build_config(env, algo, settings)


def parts(config):
    env = collecting_env(config, build_env(config))
    return env, build_learner(config, env, "cpu")


def iterate(config, collector, learner, env, iterations=range(3)):
    """Trains; returns the metrics and the state of every iteration."""
    found, sampler = [], config.sampler
    distribution = training_tasks(env, config)
    for iteration in iterations:
        tasks = distribution.sample(stream(0, "tasks", iteration), sampler.num_tasks)
        key, sizes = Key(0, "train", iteration), (sampler.num_episodes, sampler.num_adaptations)
        rollouts, context = collector.trial(learner, tasks, *sizes, key, is_training=True)
        terms = collector.take_reward_terms()
        found.append(({**learner.update(context, rollouts, tasks), **terms}, learner.state_dict()))
    return found


def trained_here(config):
    env, learner = parts(config)
    with closing(env), closing(Collector(env, config.sampler.slices)) as collector:
        return iterate(config, collector, learner, env)
