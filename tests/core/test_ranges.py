from dataclasses import dataclass
from math import inf, nan

import pytest

from metarl.core.errors import ConfigError
from metarl.core.ranges import RANGES, require_at_most, require_range


@dataclass
class Settings:
    good: float
    value: float


@pytest.mark.parametrize(
    ("hint", "inside", "outside"),
    [
        ("a finite number", (-1.0, 0.0), (inf, -inf, nan)),
        ("a finite number > 0", (1e-9, 1e9), (0.0, -1.0, inf, nan)),
        ("a finite number > 0, at least 1e-30", (1e-30, 1e9), (0.0, 1e-31, -1.0, inf, nan)),
        ("a finite number >= 0", (0.0, 1e9), (-1e-9, inf, nan)),
        ("in [0, 1]", (0.0, 0.5, 1.0), (-1e-9, 1.1, nan)),
        ("in (0, 1]", (1e-9, 1.0), (0.0, 1.1, nan)),
        ("in (0, 1)", (1e-9, 0.9), (0.0, 1.0, nan)),
        ("in [-20, 20]", (-20.0, 0.0, 20.0), (-20.1, 20.1, inf, nan)),
        ("at least 0", (0, 3), (-1,)),
        ("at least 1", (1, 3), (0, -1)),
    ],
)
def test_require_range_names_field_value_and_range(hint, inside, outside):
    for value in inside:
        require_range(Settings(value, value), "learner", ("good", "value"), hint)
    for value in outside:
        with pytest.raises(ConfigError) as caught:
            require_range(Settings(inside[0], value), "learner", ("good", "value"), hint)
        assert str(caught.value) == f"learner.value = {value!r}: must be {hint}"


def test_every_range_is_tested():
    marks = test_require_range_names_field_value_and_range.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(RANGES)


@dataclass(frozen=True, slots=True)
class Slots:
    value: float


def test_dataclass_with_slots_is_checked():
    require_range(Slots(1.0), "group", ("value",), "in [0, 1]")
    with pytest.raises(ConfigError, match="^group.value = 2.0: must be in"):
        require_range(Slots(2.0), "group", ("value",), "in [0, 1]")


@pytest.mark.parametrize("value", [3e38, -3e38, 10**40])
def test_number_that_float32_cannot_hold_is_refused(value):
    with pytest.raises(ConfigError, match=r"learner\.value = .*: must be at most 1e\+30 in absol"):
        require_range(Settings(1.0, value), "learner", ("good", "value"), "a finite number")


def test_sizes_and_counts_have_a_largest_value():
    require_at_most("learner.memory_size", 100_000)
    require_at_most("learner.epochs", 10**9)
    with pytest.raises(ConfigError, match=r"learner.memory_size = 2147483648: .* 100,000"):
        require_at_most("learner.memory_size", 2**31)
    with pytest.raises(ConfigError, match="at most 1,000,000,000"):
        require_range(Settings(1, 10**18), "learner", ("good", "value"), "at least 1")
