"""Settings that were chosen, and have no effect beside the others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from metarl.core.errors import ConfigError
from metarl.core.ranges import HasNeeds, Need, read_field
from metarl.core.trees import flatten


@dataclass(frozen=True)
class Start:
    """The `TrainConfig` over which flags and arguments go.

    Attributes:
        settings: All of them.
        unchosen: Those that nobody has chosen: the preset, or what a run has recorded.
        where: Prefix of a message about what the settings have beside the unchosen ones: their
            file.
    """

    settings: Any
    unchosen: Any
    where: str = ""


def refuse_idle(
    config: Any,
    start: Start,
    default: Any,
    *,
    spell: Callable[[str], str] = str,
    free: Collection[str] = (),
) -> None:
    """Refuses settings that were chosen and have no effect.

    Args:
        config: `TrainConfig` with all that was chosen.
        start: The same before flags and arguments.
        default: The same without a preset; a setting that has its value passes.
        spell: Turns the dotted name of a flag or argument into the form of the message.
        free: Names that may have no effect, because they were chosen for several configs.

    Raises:
        ConfigError: There is one; names it, and what it needs.
    """
    trees = (config, start.settings, start.unchosen, default)
    settings, before, *unchosen = (flatten(asdict(tree)) for tree in trees)
    lacking = find_lacking(config)
    for name, value in settings.items():
        is_chosen = not any(value == others.get(name) for others in unchosen)
        if name in free or not is_chosen or name not in lacking:
            continue
        is_of_file = value == before.get(name)
        place = f"{start.where}{name}" if is_of_file else spell(name)
        lack = lacking[name].describe(settings, str if is_of_file else spell)
        shown = place if value is True else f"{place} = {value}"
        raise ConfigError(f"{shown}: has no effect {lack}")


def find_lacking(config: Any) -> dict[str, Need]:
    """Returns the dotted names of settings that have no effect, with what they need."""
    settings = flatten(asdict(config))
    return {
        name: need
        for need in reversed(list_needs(config))  # the first one counts
        for name in need.names
        if not need.is_met(settings, settings.get(name))
    }


def list_needs(config: Any) -> list[Need]:
    """Returns the needs of a tree of settings, with dotted names."""
    needs = list(config.NEEDS)
    for field in fields(config):
        group = read_field(config, field.name)
        if isinstance(group, HasNeeds):
            needs += [_within(field.name, need) for need in group.NEEDS]
    return needs


def _within(group: str, need: Need) -> Need:
    """Returns the need of a group as one of the whole tree."""
    names, others = ([f"{group}.{name}" for name in each] for each in (need.names, need.others))
    return replace(need, names=tuple(names), others=tuple(others))
