"""Environments of users: found by name, and stepped in worker processes if they are Gymnasium environments."""
