"""Sweeps: searches for the settings that learn best, by Optuna. Their trainings are run folders."""
