"""Adapters of a `BatchEnv`: the observed task, episodes that restart, Gymnasium and Stable-Baselines3."""
