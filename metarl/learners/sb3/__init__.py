"""Baselines that Stable-Baselines3 trains on the same tasks; their environments live in metarl.envs."""
