"""What every cell and edge would do, from gradients, and the same by patching."""
