"""Estimates of what a sweep measures, from gradients; checked by the sweep."""
