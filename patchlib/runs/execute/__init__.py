"""One notebook: its parameters, its execution, what it saves, and its page."""
