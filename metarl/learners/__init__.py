"""Learners: one folder for each algorithm with its config, and the one table of all algorithms."""
