"""The tasks that the field uses, in our own wording and with public facts, checked for the tokenizer at hand."""
