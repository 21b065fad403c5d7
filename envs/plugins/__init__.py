"""Environments of users: found by name; Gymnasium environments are stepped in worker processes."""
