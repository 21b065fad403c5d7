"""Which presets an environment may have."""

from pathlib import Path

import pytest

from metarl.config.presets import find_preset, preset_names

CONFIGS = Path(__file__).parents[2] / "configs"


def test_sparse_reward_has_no_preset_of_the_dense_one():
    assert preset_names("navigation-2d-sparse") == ["navigation-2d-sparse"] * 2
    assert preset_names("navigation-2d-sparse-wind")[1:] == [
        "navigation-2d-sparse-wind",
        "navigation-2d-sparse",
    ]
    assert preset_names("ant-dir-wind")[1:] == ["ant-dir-wind", "ant-dir", "ant"]


@pytest.mark.parametrize("algo", ["varibad", "gp", "metric", "bmaml", "teacher-student"])
def test_sparse_navigation_keeps_the_default_noise(algo):
    assert find_preset(CONFIGS / algo, "navigation-2d") is not None
    assert find_preset(CONFIGS / algo, "navigation-2d-sparse") is None


@pytest.mark.parametrize("algo", ["maml-trpo", "rl2", "pearl", "grbal"])
def test_sparse_navigation_has_presets_of_its_own(algo):
    found = find_preset(CONFIGS / algo, "navigation-2d-sparse")
    assert found is not None and found.stem == "navigation-2d-sparse"
