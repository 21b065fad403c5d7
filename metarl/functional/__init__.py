"""Pure mathematics on tensors: distributions, advantages, losses, trust regions.

Networks and state live elsewhere.
"""
