"""Exported and published policies, and data sets of trials: all that leaves a run."""
