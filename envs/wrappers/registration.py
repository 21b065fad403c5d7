"""STUB."""


def register():
    """STUB."""
