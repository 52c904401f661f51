"""Typical wrong solutions of coursework 03."""

from tests.coursework import Wrong

_FREEZE = """z = clean[hook.name].clone()  # [example pos head d_head]
            """

WRONG = (
    Wrong(
        "logit_attribution", "corrupted prompt", "that of the corrupted prompt", {"clean_tokens": "corrupted_tokens"}
    ),
    Wrong(
        "logit_attribution",
        "wrong sign",
        "wrong sign",
        {"W_U[:, right] - model.W_U[:, wrong]": "W_U[:, wrong] - model.W_U[:, right]"},
    ),
    Wrong("logit_attribution", "no return", "did you forget `return`?", {"return float": "float"}),
    Wrong("path_to_logits", "nothing frozen", "lets the other heads follow", {_FREEZE: ""}),
    Wrong("path_to_logits", "wrong sign", "wrong sign", {"(clean - patched)": "(patched - clean)"}),
    Wrong("path_to_logits", "what is left", "is 1 - effect", {"(clean - patched)": "(patched - corrupted)"}),
    Wrong(
        "copying", "suppressing", "which is suppressing", {"logits.topk(top_k)": "logits.topk(top_k, largest=False)"}
    ),
    Wrong("copying", "the first only", "highest logit only", {"topk(top_k)": "topk(1)"}),
    Wrong("copying", "not copied", "not copied", {"return float(": "return 1 - float("}),
    Wrong(
        "two_protocols",
        "circuit knocked out",
        "knocked out the circuit",
        {"head_positions(), keep=True": "head_positions(), keep=False"},
    ),
    Wrong("two_protocols", "no floor", "subtracts no floor", {"(alone - floor) / (whole - floor)": "alone / whole"}),
    Wrong(
        "two_protocols",
        "mean of ratios",
        "mean of ratios",
        {
            "measure(sets).mean(axis=1)": "measure(sets)",
            "return alone / whole, (alone - floor) / (whole - floor)": (
                "return (alone / whole).mean(), ((alone - floor) / (whole - floor)).mean()"
            ),
        },
    ),
    Wrong("survivors", "any task", "any of the tasks", {"set.intersection": "set.union"}),
    # To rank by the sign is told only where a head of some size works against the answer: not in this tiny model.
    Wrong("survivors", "first task", "the first task only", {"set.intersection(*found)": "found[0]"}),
)
