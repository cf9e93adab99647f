"""Ties other programs to the bus, one package or module each; each needs its program installed."""
