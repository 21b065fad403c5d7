"""Locomotion on MuJoCo: goals, variations of the world, and the environment of a robot.

Pictures of it are in `envs/rendering`.
"""
