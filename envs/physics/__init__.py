"""Engines of the physics beside MuJoCo's own batch."""
