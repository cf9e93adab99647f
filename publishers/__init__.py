"""The training side: ``start_run`` and what it returns."""

from bus._version import __version__
from publishers.run import Run
from publishers.start import start_run

__all__ = ["Run", "__version__", "start_run"]
