"""Ultralytics (YOLO): with ``attach(model)``, or without code under ``trainbus run``."""

from publishers.integrations.ultralytics.hooks import attach, current_run, install

__all__ = ["attach", "current_run", "install"]
