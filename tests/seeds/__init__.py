"""Do the notebooks' sentences hold at every seed? ``python -m tests.seeds`` runs them and asks what they saved."""
