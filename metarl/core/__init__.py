"""Contracts and records that all packages share.

Environments, tasks, rollouts, learners, random streams and errors; no algorithm and no physics.
"""
