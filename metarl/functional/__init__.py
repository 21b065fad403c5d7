"""Pure mathematics on tensors: distributions, advantages, losses, trust regions. No networks and no state."""
