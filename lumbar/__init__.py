"""Lumbar: grading of degenerative lumbar-spine disease on MRI."""

__version__ = "0.2.0"
