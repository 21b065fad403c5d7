"""Messages on the terminal, with texts of others made harmless.

Settings of a run folder, exceptions of plug-ins and names of files may hold any character, also
those that move the cursor, change the title of the window or reverse the direction of writing.
"""

from __future__ import annotations

import io
import re
import sys
import traceback
from contextlib import suppress
from typing import Any, TextIO

LONGEST = 500
"""Characters of a text of a plug-in that are shown."""

_LONGEST_MESSAGE = 4000
"""Characters of a message; a command that it quotes may be long."""

_LONG_WORD = re.compile(r"\S{401,}")
"""A value or a path that would push the hint behind it out of a message."""

_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, marks of the direction of writing, line separators, and lone surrogates."""


def printable(text: object, *, keeps_lines: bool = False, longest: int | None = None) -> str:
    r"""Returns a text whose unsafe characters are replaced by escapes such as \x1b.

    Args:
        text: The text, or an object whose str is the text.
        keeps_lines: Leave line breaks as they are.
        longest: Characters that are kept; None keeps all.
    """
    text = str(text)
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]} ... ({len(text):,} characters)"
    return _UNSAFE.sub(lambda match: _escape(match[0], keeps_lines), text)


def _escape(character: str, keeps_lines: bool) -> str:
    code = ord(character)
    if keeps_lines and character == "\n":
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _shorten(match: re.Match[str]) -> str:
    return f"{match[0][:100]}... ({len(match[0]):,} characters)"


def describe_error(error: BaseException) -> str:
    """Describes an exception of foreign code in one line, with the place that raised it."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own method may raise anything
        text = "its text cannot be read"
    text = f"{type(error).__name__}: {printable(text, longest=LONGEST)}"
    places = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not places:  # its traceback ends in the import machinery
        return printable(text)
    return printable(f"{text} ({places[-1].filename}, line {places[-1].lineno})")


def printable_tree(tree: Any) -> Any:
    """Returns nested lists and mappings whose texts and keys are printable."""
    if isinstance(tree, dict):
        return {printable_tree(key): printable_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [printable_tree(value) for value in tree]
    return printable(tree, keeps_lines=True) if isinstance(tree, str) else tree


def show(text: object, *, start: str = "", end: str = "\n", stream: TextIO | None = None) -> None:
    """Writes lines of text to a stream, by default the standard output.

    Args:
        text: The text.
        start: Written before it as it is, such as what clears a line of a terminal.
        end: Written after it.
        stream: The stream.
    """
    try:
        print(f"{start}{printable(text, keeps_lines=True)}", end=end, file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, which names no file
        error.filename = error.filename or "the standard output"
        raise


def notify(text: object) -> None:
    """Writes a message of one line to the standard error, which may be closed or full.

    Of a value without spaces that is very long its start is shown, so that what the message says
    about it is still read.
    """
    with suppress(OSError, ValueError):
        line = printable(_LONG_WORD.sub(_shorten, str(text)), longest=_LONGEST_MESSAGE)
        print(f"metarl: {line}", file=sys.stderr, flush=True)


def warn(text: object) -> None:
    """Writes a warning of one line to the standard error."""
    notify(f"warning: {text}")


def escape_unencodable() -> None:
    """Makes the standard streams escape characters that their encoding lacks, such as ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # those of tests and notebooks are others
            stream.reconfigure(errors="backslashreplace")


_HUGE = 1e7
"""Size from which numbers are shown with an exponent."""


def format_number(value: float | None, decimals: int = 2) -> str:
    """Formats a number with some decimals; "-" stands for None.

    A number that they would round to zero or nearly so has three digits, a huge one six.
    """
    if value is None:
        return "-"
    if 0.0 < abs(value) < 10.0**-decimals:
        return f"{value:.3g}"
    if abs(value) >= _HUGE:
        return f"{value:.6g}"
    return f"{value + 0.0:.{decimals}f}"  # the sum of -0.0 and 0.0 has no sign
