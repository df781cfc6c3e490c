"""Keeps pytest from importing the file that only type checkers read."""

collect_ignore = ["expectations.py"]
