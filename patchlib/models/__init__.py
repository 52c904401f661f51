"""A name, a folder or a model in hand -> an eval-mode TransformerBridge; the default model's file and its cache."""
