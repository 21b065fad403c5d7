"""Baselines that are trained by Stable-Baselines3 on the same tasks."""
