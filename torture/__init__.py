"""Tries to break trainings and run folders; not part of the library and not shipped.

A kind of trial is a function (seed, count, broken) -> `Row`. `broken` breaks the product on purpose
in every process of the trial, which shows that the kind can fail. `python -m torture` runs them.
"""
