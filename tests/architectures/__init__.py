"""Is every architecture's sweep exact, and every tool for its heads right? `python -m tests.architectures` says so."""
