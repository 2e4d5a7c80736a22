"""Execution that skips: `accelerate`, and one file for each way of doing it."""

from .plan import accelerate

__all__ = ["accelerate"]
