"""Variations together: what one does to the world does not hang on where it stands in the name."""

from itertools import combinations

import numpy as np
import pytest

from metarl.envs.registry import make

WORDS = ("params", "friction", "payload", "gravity", "wind", "cripple", "actuator", "terrain")


def trajectory(words, tasks):
    """The states (20, 3, nq) of 3 half-cheetahs under equal actions in the worlds of tasks by word."""
    env = make("-".join(["half-cheetah", *words]), 1)
    env.set_tasks(np.concatenate([tasks[word] for word in words], axis=1), 1)
    env.reset([np.random.default_rng(row) for row in range(3)])
    rng, states = np.random.default_rng(1), []
    for _ in range(20):
        env.step(rng.normal(size=(3, env.spec.action_size)), np.ones(3, dtype=bool))
        states.append(env.snapshot())
    env.close()
    return np.array(states)


@pytest.mark.parametrize("pair", list(combinations(WORDS, 2)), ids="-".join)
def test_two_variations_do_the_same_in_either_order(pair):
    tasks = {
        word: make(f"half-cheetah-{word}", 1).spec.tasks.sample(np.random.default_rng(2), 3)
        for word in pair
    }
    np.testing.assert_array_equal(trajectory(pair, tasks), trajectory(pair[::-1], tasks))


def test_beside_params_the_ground_has_the_friction_that_the_task_says():
    env = make("ant-friction-params", 1)
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 4)
    env.set_tasks(tasks, 1)
    floor = env.model.geom("floor").id
    made = [env._batch.get_model(row).geom_friction[floor, 0] for row in range(4)]
    np.testing.assert_allclose(made, tasks[:, 0], rtol=1e-12)
