"""Formats and sizes of films; imports nothing heavy, so that the command line can read it."""

FORMATS = ("mp4", "gif", "html")
"""Formats of a film; html is a replay in 3-D."""

MIN_SIZE = 16
"""Least width of a picture [pixels]."""

MAX_SIZE = 4096
"""Largest width of a picture [pixels]: a film of larger ones fills the memory."""
