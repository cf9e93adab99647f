"""Ultralytics HUB, version 1 of its API."""
