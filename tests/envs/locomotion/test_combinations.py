"""Pairs of variations: the effect of one does not depend on the order in the name."""

from itertools import combinations

import numpy as np
import pytest

from metarl.envs.registry import make

WORDS = (
    "params",
    "friction",
    "payload",
    "gravity",
    "wind",
    "push",
    "delay",
    "cripple",
    "locked",
    "weak",
    "damage",
    "load",
    "com",
    "actuator",
    "joint",
    "terrain",
)

ROUNDED = {
    ("payload", "load"),
    ("weak", "damage"),
    ("params", "joint"),
    ("weak", "servo"),
    ("damage", "servo"),
    ("actuator", "servo"),
}
"""Pairs whose effects on one number multiply or add up, in the order of the name."""


def trajectory(words, tasks, robot):
    """Returns states (20, 3, nq) of 3 robots under equal actions; tasks by variation."""
    env = make("-".join([robot, *words]), 1)
    env.set_tasks(np.concatenate([tasks[word] for word in words], axis=1), 1)
    env.reset([np.random.default_rng(row) for row in range(3)])
    rng, states = np.random.default_rng(1), []
    for _ in range(20):
        env.step(rng.normal(size=(3, env.spec.action_size)), np.ones(3, dtype=bool))
        states.append(env.snapshot())
    env.close()
    return np.array(states)


PAIRS = [*combinations(WORDS, 2), *((word, "servo") for word in WORDS)]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pair_of_variations_does_not_depend_on_the_order(pair):
    robot = "quadruped" if "servo" in pair else "half-cheetah"
    tasks = {
        word: make(f"{robot}-{word}", 1).spec.tasks.sample(np.random.default_rng(2), 3)
        for word in pair
    }
    found, expected = (trajectory(words, tasks, robot) for words in (pair, pair[::-1]))
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-11 if pair in ROUNDED else 0.0)


def test_friction_sets_the_ground_also_beside_params():
    env = make("ant-friction-params", 1)
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 4)
    env.set_tasks(tasks, 1)
    floor = env.model.geom("floor").id
    friction = [env._batch.get_model(row).geom_friction[floor, 0] for row in range(4)]
    np.testing.assert_allclose(friction, tasks[:, 0], rtol=1e-12)
