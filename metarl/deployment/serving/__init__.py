"""Serves a policy to a live robot: messages, their forms on the wire, transports, limits, log."""
