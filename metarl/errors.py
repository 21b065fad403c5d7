"""The failures that end a command, each with its exit code and a message of one line."""

from __future__ import annotations


class MetarlError(Exception):
    """What went wrong, where, and the cure, in one line; `exit_code` is the status of the process."""

    exit_code = 1


class ConfigError(MetarlError):
    """A flag, a preset or a run folder's name cannot be used; nothing has been written."""

    exit_code = 2


class RunExists(ConfigError):
    """The folder of a new run is there already; nothing is ever overwritten."""


class EnvironmentContractError(MetarlError):
    """An environment breaks the contract of `BatchEnv`."""

    exit_code = 3


class NumericalError(MetarlError):
    """A number that training stands on is not finite."""

    exit_code = 4


class CheckpointError(MetarlError):
    """No checkpoint of a run can be trusted, or the folder is no run."""

    exit_code = 5


class ResourceError(MetarlError):
    """The machine lacks what was asked for: a GPU, memory, disk space."""

    exit_code = 6


class Preempted(MetarlError):
    """Stopped from outside; the run is saved and can be resumed."""

    exit_code = 75


def require(ok: bool, field: str, value: object, cure: str) -> None:
    """Refuses a field's value.

    Args:
        ok: The value is usable.
        field: Dotted name as the config spells it.
        value: What was given.
        cure: What the value must be.

    Raises:
        ConfigError: Not ok; the message names field, value and cure.
    """
    if not ok:
        raise ConfigError(f"{field} = {value!r}: must be {cure}")
