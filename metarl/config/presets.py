"""The presets of an environment, by name."""

from __future__ import annotations

from pathlib import Path

from metarl.core.machine.files import PACKAGED_ARMS, split_packaged_robot, split_robot_file

SPARSE = "sparse"
"""Word in the names of environments with a sparse reward."""


def preset_names(env: str) -> list[str]:
    """Returns the names of presets that an environment may have, the best first.

    They are its own name and its beginnings, the longest first: `ant-dir-wind` and `ant-dir/...`
    may have the preset of `ant-dir`. A sparse reward is another problem, which needs more noise, so
    `...-sparse` has no preset of the dense one. A user's robot `file.yaml:...` has that of the name
    `robot`, and one of a package, such as `go2-...`, that of `quadruped-...` too. Arms have those
    of `arm`.
    """
    if own := split_robot_file(env):
        return preset_names(f"arm-{own[1]}") if own[1].startswith("reach") else ["robot"]
    words = [] if ":" in env else env.partition("/")[0].split("-")
    least = words.index(SPARSE) if SPARSE in words else 0
    names = [env, *("-".join(words[:count]) for count in range(len(words), least, -1))]
    of_package = split_packaged_robot(env)
    if of_package is None:
        return names
    like = "arm" if of_package[0] in PACKAGED_ARMS else "quadruped"
    return names + preset_names(f"{like}-{of_package[1]}")


def find_preset(folder: Path, env: str) -> Path | None:
    """Returns the file of the best preset of an environment in an algorithm's folder, if any."""
    folder = folder.resolve()
    for name in preset_names(env):
        path = (folder / f"{name}.yaml").resolve()
        # a name may contain "/" and "..": never read a file outside the folder
        if name and path.is_relative_to(folder) and path.is_file():
            return path
    return None
