"""Baselines: what other people's learners reach on the same tasks, in the same run folders."""
