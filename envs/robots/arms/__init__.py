"""Robots with a fixed base and an end effector: arms. No goal, no world."""
