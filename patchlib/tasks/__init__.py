"""What the model is asked: pairs of prompts that differ in one thing, and answers that tell them apart."""
