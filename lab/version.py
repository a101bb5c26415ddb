"""The version of lab, which is part of every run's identity."""

__version__ = "0.1.0"
