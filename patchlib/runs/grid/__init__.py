"""Many runs: which they are, which of them are there already, and who executes the others."""
