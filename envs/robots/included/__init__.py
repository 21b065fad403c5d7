"""Robots that a name finds: of Gymnasium, of metarl, and of installed packages."""
