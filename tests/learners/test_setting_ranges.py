"""Every float setting of every learner has a finite range."""

import math
from dataclasses import fields, replace

import pytest

from metarl.core.errors import ConfigError
from metarl.envs.registry import make
from metarl.functional.params import find_non_finite
from metarl.learners.registry import ALGORITHMS, build_learner

SPEC = make("navigation-2d", 1).spec

EXTREMES = [math.nan, math.inf, -math.inf, 1e39, -1e39, 0.0, 1e-50]
SETTINGS = sorted(
    {
        (algorithm.config, field.name)
        for algorithm in ALGORITHMS.values()
        for field in fields(algorithm.config)
        if isinstance(getattr(algorithm.config(), field.name), float)
    },
    key=lambda pair: (pair[0].__name__, pair[1]),
)


@pytest.mark.parametrize("value", EXTREMES)
@pytest.mark.parametrize("kind, name", SETTINGS, ids=lambda part: getattr(part, "__name__", part))
def test_extreme_setting_is_refused_or_usable(kind, name, value):
    try:
        config = replace(kind(), **{name: value})
    except ConfigError as error:
        assert "\n" not in str(error) and f"learner.{name}" in str(error)
        return
    assert value in (0.0, 1e-50), "no range"
    algorithm = next(each for each in ALGORITHMS.values() if each.config is kind)
    if "Sb3" not in kind.__name__:  # those are built with an environment
        state = build_learner(algorithm, config, SPEC, seed=0).state_dict()
        assert not find_non_finite(state)


@pytest.mark.parametrize(
    "algo, name",
    [
        ("pearl", "initial_temperature"),
        ("pearl", "action_limit"),
        ("metric", "temperature"),
        ("grbal", "temperature"),
        ("bmaml", "repulsion"),
    ],
)
def test_setting_that_divides_is_not_zero_in_float32(algo, name):
    with pytest.raises(ConfigError, match=f"learner.{name} = 1e-50: .*at least 1e-30"):
        ALGORITHMS[algo].config(**{name: 1e-50})
