"""Heads by what they do, circuits of them, and what is lost without them."""
