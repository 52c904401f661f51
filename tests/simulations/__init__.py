"""Simulations whose tables stand in docstrings: commands to be run by hand, not tests."""
