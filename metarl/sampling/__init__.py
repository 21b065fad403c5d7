"""Collection of rollouts and trials, and their arrangement for recurrent updates."""
