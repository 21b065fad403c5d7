"""Guesses about a model of the user (base, feet, limbs, actuators), and a trial of the robot."""
