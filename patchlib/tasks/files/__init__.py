"""Prompts in files: read in the shapes that people have, checked row by row, and written so that they come back."""
