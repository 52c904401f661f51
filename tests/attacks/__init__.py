"""Wrong input and faults from outside, one case each: patchlib gives the right number or one clear line.

    python -m tests.attacks [--only A5]

tries every case and prints what each gives; `tests/attacks/test_attacks.py` does the same for pytest. The letters and
numbers are those of the kinds: A wrong numbers, B files and code of others, C one bad thing that ends everything,
D what users of such tools expect.
"""
