"""Contracts and records that all packages share: environments, tasks, rollouts, learners, random streams, errors."""
