"""Trainings that use the bus as a user would."""
