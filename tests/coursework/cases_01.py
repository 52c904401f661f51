"""Typical wrong solutions of coursework 01."""

from tests.coursework import SWAPPED, Wrong

WRONG = (
    Wrong(
        "effect", "what is still missing", "is 1 - effect", {"(patched - corrupted).mean()": "(clean - patched).mean()"}
    ),
    Wrong(
        "effect",
        "mean of ratios",
        "mean of ratios",
        {
            "(patched - corrupted).mean() / (clean": "((patched - corrupted) / (clean",
            "corrupted).mean()\n": "corrupted)).mean()\n",
        },
    ),
    Wrong("effect", "no return", "did you forget `return`?", {"return ": ""}),
    Wrong(
        "effect",
        "clipped",
        "cut off at 0 or 1",
        {"return ": "return np.clip(", ".mean()\n    ### END": ".mean(), 0, 1)\n    ### END"},
    ),
    Wrong("patched_metric", "wrong forward pass", "corrupted value into the clean forward pass", SWAPPED),
    Wrong("patched_metric", "position - 1", "it patched position - 1", {"[:, position]": "[:, position - 1]"}),
    Wrong("patched_metric", "all positions", "as if all positions had been patched", {"[:, position]": "[:, :]"}),
    Wrong("patched_metric", "resid_post", "one layer late", {"hook_resid_pre": "hook_resid_post"}),
    Wrong("patched_metric", "no return", "did you forget `return`?", {"return logit_diff": "logit_diff"}),
    Wrong(
        "residual_sweep",
        "mean of ratios",
        "mean of ratios",
        {"effect(clean, corrupted, patched)": "((patched - corrupted) / (clean - corrupted)).mean()"},
    ),
    Wrong("residual_sweep", "the first prompt's position", "first prompt's position", {"[role][i]": "[role][0]"}),
    Wrong("residual_sweep", "position - 1", "it patched position - 1", {"[role][i])": "[role][i]) - 1"}),
    Wrong("residual_sweep", "1 - effect", "is 1 - effect", {"append(effect": "append(1 - effect"}),
    Wrong(
        "predict",
        "noising is 1 - denoising",
        "Noising is not 1 - denoising",
        {'"noising": [1, 0, 1]': '"noising": [0, 1, 0]'},
    ),
    Wrong("predict", "each head of an OR is necessary", "One of the two heads is enough", {"[0, 0, 0]": "[1, 1, 0]"}),
    Wrong(
        "predict",
        "position 0 matters",
        "Both prompts begin with the same token",
        {'"denoising": [1, 0, 1]': '"denoising": [1, 1, 1]'},
    ),
)
