"""Values of settings, converted to the types of their fields."""

from pathlib import Path

import pytest

from metarl.config.schema import build_config
from metarl.core.errors import CheckpointError, ConfigError


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["run_dir", "init_from"])
def test_path_with_a_zero_character_is_refused(name, kind):
    with pytest.raises(ConfigError, match=f"{name} = .*: must be a path, which has no zero char"):
        build_config("navigation-2d", None, {name: kind("a\0b")})


def test_file_with_a_zero_character_in_its_path_is_refused():
    with pytest.raises(ConfigError, match="is no path, as it has a zero character"):
        build_config("navigation-2d", None, {"config": "a\0b"})
    with pytest.raises(CheckpointError, match="--resume .* is no path, as it has a zero character"):
        build_config(None, None, {"resume": "a\0b"})
