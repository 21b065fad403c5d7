"""Baselines that Stable-Baselines3 trains on the same tasks; environments live in metarl.envs."""
