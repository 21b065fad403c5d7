"""Robots as values: model, home pose, actions, observation, health, limbs. No goal, no world."""
