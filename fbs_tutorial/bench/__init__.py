"""Measuring: how times are taken, what is timed, and the tables made from it."""
