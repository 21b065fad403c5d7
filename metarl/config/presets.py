"""The presets of an environment, by name."""

from __future__ import annotations

from metarl.core.files import split_packaged_robot, split_robot_file


def preset_names(env: str) -> list[str]:
    """Returns the names of presets that an environment may have, the best first.

    They are its own name and its beginnings, the longest first: `ant-dir-wind` and `ant-dir/...`
    may have the preset of `ant-dir`. A user's robot `file.yaml:...` has that of the name `robot`,
    and one of a package, such as `go2-...`, that of `quadruped-...` too.
    """
    if split_robot_file(env):
        return ["robot"]
    words = [] if ":" in env else env.partition("/")[0].split("-")
    names = [env, *("-".join(words[:count]) for count in range(len(words), 0, -1))]
    of_package = split_packaged_robot(env)
    return names + (preset_names(f"quadruped-{of_package[1]}") if of_package else [])
