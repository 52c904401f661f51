"""What came out of runs: all of them as one table and one dataset, compared, and checked by running some again."""
