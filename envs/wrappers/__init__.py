"""Adapters of a `BatchEnv`: observed task, autoreset, trials, Gymnasium, Stable-Baselines3."""
