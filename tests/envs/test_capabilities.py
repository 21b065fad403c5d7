"""The capabilities of every kind of environment."""

from contextlib import closing

import pytest

from metarl.core.env import (
    BatchEnv,
    BoundedEnv,
    RenderableEnv,
    RestartableEnv,
    SceneEnv,
    SplittableEnv,
    TaskDescriber,
    supports,
)
from metarl.envs.registry import make

CAPABILITIES = (
    BatchEnv,
    RestartableEnv,
    SplittableEnv,
    RenderableEnv,
    SceneEnv,
    TaskDescriber,
    BoundedEnv,
)
DRAWABLE = {BatchEnv, RestartableEnv, RenderableEnv, SceneEnv}
ENVIRONMENTS = {
    "ant-dir": DRAWABLE | {SplittableEnv},
    "half-cheetah-vel-wind": DRAWABLE | {SplittableEnv},
    "navigation-2d": DRAWABLE,
    "navigation-2d-sparse": DRAWABLE,
    "plugin_envs:TwoWays": {BatchEnv, RestartableEnv, RenderableEnv, TaskDescriber, BoundedEnv},
}


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda capability: capability.__name__)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_supports_its_capabilities(name, capability):
    with closing(make(name, 1)) as env:
        assert supports(env, capability) == (capability in ENVIRONMENTS[name])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_observe_task_passes_capabilities_on(name):
    with closing(make(name, 1, observe_task=True)) as env:
        # the bounds are those of the observation without the task
        expected = ENVIRONMENTS[name] - {BoundedEnv}
        assert {each for each in CAPABILITIES if supports(env, each)} == expected
