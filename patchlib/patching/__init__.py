"""Patch every cell of a grid, or the paths between heads, exactly and fast."""
