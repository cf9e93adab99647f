"""Ultralytics Platform: the runs of the bus as models of a Platform project."""
