"""Learners: a folder for each algorithm with its config, and the table of all algorithms."""
