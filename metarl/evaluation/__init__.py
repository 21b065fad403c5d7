"""Evaluation of policies on held-out tasks, its statistics, and its results as files and tables."""
