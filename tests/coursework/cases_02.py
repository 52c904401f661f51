"""Typical wrong solutions of coursework 02."""

from tests.coursework import SWAPPED, Wrong

WRONG = (
    Wrong("patched_head", "wrong forward pass", "corrupted output into the clean forward pass", SWAPPED),
    Wrong("patched_head", "all heads", "patched all heads of the layer", {"[:, :, head]": "[:, :]"}),
    Wrong("patched_head", "last position", "the last position only", {"[:, :, head]": "[:, -1, head]"}),
    Wrong("patched_head", "no return", "did you forget `return`?", {"return logit_diff": "logit_diff"}),
    Wrong("pattern_and_values", "the other way round", "wrong way round", {"return effects": "return effects[::-1]"}),
    Wrong(
        "pattern_and_values",
        "z twice",
        "the head's output z",
        {
            '"hook_pattern": np.s_[:, head], "hook_v": np.s_[:, :, head // shared]': '"hook_z": np.s_[:, :, head]',
            "return effects": "return effects * 2",
        },
    ),
    Wrong(
        "pattern_and_values",
        "mean of ratios",
        "mean of ratios",
        {
            "(np.mean(patched) - corrupted.mean()) / (clean - corrupted).mean()": (
                "np.mean((np.array(patched) - corrupted) / (clean - corrupted))"
            )
        },
    ),
    Wrong(
        "team_effect",
        "sum twice",
        "together is the sum",
        {"return lost(heads), sum(lost([head]) for head in heads)": "return [sum(lost([head]) for head in heads)] * 2"},
    ),
    Wrong(
        "team_effect",
        "one head of a layer",
        "one head of each layer only",
        {
            "of_layer = [head for layer, head in team if layer == hook.layer()]": (
                "of_layer = [head for layer, head in team if layer == hook.layer()][-1:]"
            )
        },
    ),
    Wrong(
        "team_effect",
        "wrong sign",
        "wrong sign",
        {"(clean.mean() - np.mean(patched))": "(np.mean(patched) - clean.mean())"},
    ),
    Wrong("prompts_needed", "not corrected", "not corrected for the number of cells", {"n_cells * 2": "2"}),
    Wrong("prompts_needed", "one-sided", "one side only", {"* 2 /": "* 1 /"}),
    Wrong("prompts_needed", "not strict", "strict inequality", {">= alpha": "> alpha"}),
    Wrong(
        "kind_of_pair",
        "the other way round",
        "the wrong way round",
        {'"OR"': '"KEPT"', '"AND"': '"OR"', '"KEPT"': '"AND"'},
    ),
    Wrong("kind_of_pair", "any for all", "only one of them matters", {"if all(large": "if any(large"}),
    Wrong(
        "kind_of_pair",
        "always neither",
        "of every pair",
        {'return "OR"': 'return "neither"', 'return "AND"': 'return "neither"'},
    ),
)
