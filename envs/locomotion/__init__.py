"""Locomotion on MuJoCo: robots, goals, variations of the world, and their environment.

Pictures of it are in `envs/rendering`.
"""
