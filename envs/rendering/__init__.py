"""Pictures and scenes of simulated robots, with and without OpenGL."""
