"""Limits on controls and their rate against numbers by hand, and the watchdog's times."""

import math

import numpy as np
import pytest
from served_policy import spec

from metarl.core.errors import ConfigError
from metarl.deployment.serving.limits import Watchdog, read_limits, safe_control
from metarl.deployment.serving.log import Latencies


def test_safe_control_is_the_home_pose():
    assert safe_control(spec()).tolist() == [0.5, -1.0, 0.0]
    narrow = spec(action_range=((-1.0, -0.9, -1.0), (0.4, 1.0, 1.0)))
    assert safe_control(narrow).tolist() == [0.4, -0.9, 0.0]
    assert safe_control(spec(discrete=True, action_centre=0.0)).tolist() == [0]


def test_range_and_rate_limit_controls():
    limits = read_limits(spec(), ends=[-1, 1, -2, 2, -0.5, 0.25], rate=[10.0, 5.0, 1000.0])
    found, is_limited = limits.apply(np.array([0.6, -3.0, 9.0]), limits.home, 0.02)
    np.testing.assert_allclose(found, [0.6, -1.1, 0.25])
    assert is_limited
    found, is_limited = limits.apply(np.array([0.4, -1.05, 0.1]), limits.home, 0.02)
    assert found.tolist() == [0.4, -1.05, 0.1] and not is_limited


def test_no_limits_leave_controls_unchanged():
    wild = np.array([1e30, -0.0, -1e30])
    found, is_limited = read_limits(spec()).apply(wild, np.zeros(3), 0.0001)
    assert found.tobytes() == wild.tobytes() and not is_limited


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ends": [0.0, 1.0, 2.0]}, "--range has 3 numbers: must be 2, or 2 for 3 controls"),
        ({"ends": [-0.5, 2.0]}, "--range -0.5,2: must hold the safe control 1 of echo, "),
        ({"rate": [1.0, 2.0]}, "--rate-limit 1,2: must be 1 positive number, or 1 for each of 3"),
        ({"rate": [0.0]}, "--rate-limit 0: must be 1 positive"),
    ],
)
def test_unusable_limits_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        read_limits(spec(), **values)


def test_limits_of_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match="the actions of echo are discrete"):
        read_limits(spec(discrete=True, action_centre=0.0), rate=[1.0])


def test_watchdog_expires_after_the_limit_and_again():
    dog = Watchdog(0.1)
    assert dog.wait(5.0) == math.inf and not dog.expire(5.0)
    assert dog.feed(5.0) is None
    assert dog.wait(5.03) == pytest.approx(0.07)
    assert not dog.expire(5.09) and not dog.is_silent
    assert dog.expire(5.11) and dog.is_silent
    assert not dog.expire(5.2) and dog.expire(5.22)
    assert dog.feed(5.5) == pytest.approx(0.5)
    assert dog.feed(5.55) is None
    dog.pause()
    assert dog.wait(9.0) == math.inf and dog.feed(9.5) is None


def test_latencies_have_the_quantiles_of_numpy():
    seconds = 10.0 ** np.random.default_rng(0).uniform(-5.0, -1.0, 20_000)
    histogram = Latencies()
    for each in seconds:
        histogram.add(float(each))
    for share in (0.1, 0.5, 0.999):
        exact = np.quantile(seconds, share)
        assert (
            exact <= histogram.quantile(share) * 1.002 and histogram.quantile(share) < 1.03 * exact
        )
    assert histogram.summary()["max"] == 1e3 * seconds.max()
    histogram.add(1e9), histogram.add(0.0)
    assert histogram.quantile(1.0) == 1e9
    assert Latencies().summary() == {"median": 0.0, "p99.9": 0.0, "max": 0.0}
