"""The demo: a real training on two simulated nodes through the whole bus, on this machine."""

from bus.demo.play import DemoOptions, play

__all__ = ["DemoOptions", "play"]
