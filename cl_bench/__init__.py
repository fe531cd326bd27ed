"""Continual-learning experiments, one command each. See README.md for the tour."""

__version__ = "0.1.0"
