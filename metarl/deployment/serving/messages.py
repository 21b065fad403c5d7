"""Messages between a robot and the server of its policy, whatever their form on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np


class Verb(IntEnum):
    """Request of a robot."""

    BEGIN = 1
    """Begin a new trial: forget the task."""
    ACT = 2
    """Return the controls for an observation."""
    END = 3
    """End the episode; a memory keeps what it knows."""
    ADAPT = 4
    """Take a gradient step on the episodes since the last one (MAML)."""
    STATUS = 5
    """Return the counters."""
    STOP = 6
    """Leave: the next robot may come, on a new task."""


class Flag(IntFlag):
    """Marks of a reply."""

    SAFE = 1
    """The control is that of an output of zero, or on its way there at the largest rate."""
    LIMITED = 2
    """The limits changed the controls."""
    ERROR = 4
    """The request was not carried out."""
    WATCHDOG = 8
    """Not a reply: the robot was silent for too long."""
    CLOSED = 16
    """Not a reply: the server ends."""


UNASKED = Flag.WATCHDOG | Flag.CLOSED
"""Marks of what the server sends by itself."""


class Refused(Exception):
    """Bytes that are no message; the text is a short reason, of which there are few."""


@dataclass(frozen=True)
class Request:
    """Message of a robot.

    Attributes:
        verb: What to do.
        sequence: Number of the request; a repeated request has that of the first. None takes the
            number after the previous one.
        obs: Observation (S,), or its numbers by name; used by ACT, and by END if given.
        reward: Of the previous control; None if there is none.
        done: The previous control ended the episode: a fall, not the time limit.
    """

    verb: Verb
    sequence: int | None = None
    obs: Any = None
    reward: float | None = None
    done: bool = False


@dataclass(frozen=True)
class Counters:
    """Numbers of a session, part of every reply.

    Attributes:
        episodes: Episodes that have ended.
        steps: Observations of the present episode that were answered with controls.
        adaptations: Times that ADAPT was carried out.
        unusable: Numbers that were not finite.
        refused: Messages that were refused or failed, since the server started.
        silences: Times that the watchdog found the robot silent, since the server started.
    """

    episodes: int = 0
    steps: int = 0
    adaptations: int = 0
    unusable: int = 0
    refused: int = 0
    silences: int = 0


@dataclass(frozen=True)
class Reply:
    """Message to a robot.

    Attributes:
        verb: That of the request.
        sequence: That of the request.
        controls: What to send to the actuators (A,) in the robot's units; the safe control for
            verbs other than ACT. One number, an index, where actions are discrete.
        flags: Marks.
        counters: Numbers of the session.
        error: Why the request was not carried out; not in the binary form.
    """

    verb: Verb
    sequence: int
    controls: np.ndarray
    flags: Flag = Flag(0)
    counters: Counters = Counters()
    error: str = ""
