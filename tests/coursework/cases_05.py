"""Typical wrong solutions of coursework 05."""

from tests.coursework import Wrong

MOVED = "moved += (slope * change)[:, :, head].sum().item()"
APART = "apart += (clean_logits[0, -1, right] - clean_logits[0, -1, wrong] - corrupted_diff).item()"
BACK = "torch.autograd.grad(kept[made], kept[read], at_output)"
FAITHFUL = "(metric - floor) / (whole - floor)"
CIRCUIT = "edge_circuit(scores, max(1, int(share * every.sum())))"

WRONG = (
    Wrong("gradient_effect", "sign", "wrong sign", {"cache[name] - starts[0]": "starts[0] - cache[name]"}),
    Wrong("gradient_effect", "all heads", "all heads of the layer", {"change)[:, :, head]": "change)"}),
    Wrong("gradient_effect", "last position", "the last position alone", {"[:, :, head].sum": "[:, -1, head].sum"}),
    Wrong("gradient_effect", "mean of ratios", "mean of ratios", {
        MOVED: MOVED.replace("moved += ", "score = "),
        APART: APART.replace("apart += ", "moved += score / ") + "\n        apart += 1",
    }),
    Wrong("gradient_effect", "in logits", "in logits", {"return moved / apart": "return moved / len(pairs)"}),
    Wrong("gradient_effect", "no return", "did you forget `return`?", {"return moved / apart": "moved / apart"}),
    Wrong("edge_score", "the whole stream", "the whole stream", {
        "kept[made], retain_graph=True": "kept[read], retain_graph=True",
        f"(at_input,) = {BACK}": "at_input = at_output",
    }),
    Wrong("edge_score", "what it writes", "what the MLP WRITES", {f"(at_input,) = {BACK}": "at_input = at_output"}),
    Wrong("edge_score", "sum over prompts", "a sum over prompts", {"sum(scores) / len(scores)": "sum(scores)"}),
    Wrong("edge_score", "last position", "the last position alone", {"* change).sum": "* change)[:, -1].sum"}),
    Wrong("curve", "no floor", "lacks the floor", {FAITHFUL: "metric / whole"}),
    Wrong("curve", "signed", "signed score", {CIRCUIT: CIRCUIT[:-1] + ', ranking="signed")'}),
    Wrong("curve", "complement", "what is LEFT", {"*circuits]": "*(every & ~kept for kept in circuits)]"}),
    Wrong("curve", "1 - faithfulness", "is 1 - faithfulness", {FAITHFUL: f"1 - {FAITHFUL}"}),
    Wrong("midpoint_effect", "beginning of a step", "at the beginning", {"(step + 0.5) / steps": "step / steps"}),
    Wrong("midpoint_effect", "from end to end", "from one end", {"(step + 0.5) / steps": "step / (steps - 1)"}),
    Wrong("midpoint_effect", "sum", "the sum of the gradients", {".mean(0) * change": ".sum(0) * change"}),
    Wrong("midpoint_effect", "in logits", "in logits", {"return moved / apart": "return moved / len(pairs)"}),
)  # fmt: skip
