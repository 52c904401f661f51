"""Typical wrong solutions of coursework 04."""

from tests.coursework import Wrong

MATCHES = "matches[:, 1:] = tokens[:, None] == tokens[None, :-1]"
SAME = "matches[:] = tokens[:, None] == tokens[None]"

WRONG = (
    Wrong("induction_scores", "the same token", "what FOLLOWED it", {"(n_pos - copy) + 1": "(n_pos - copy)"}),
    Wrong("induction_scores", "one token early", "begins one token early", {"arange(copy, n": "arange(copy - 1, n"}),
    Wrong("induction_scores", "a sum", "a sum over places", {".mean((0, 2))": ".mean(0).sum(-1)"}),
    Wrong("induction_scores", "no return", "did you forget `return`?", {"return cache": "cache"}),
    Wrong("k_composition_score", "Q-composition", "Q-composition", {"w_qk @ w_ov.T": "w_ov @ w_qk"}),
    Wrong("k_composition_score", "no transpose", "transpose the one", {"w_qk @ w_ov.T": "w_qk @ w_ov"}),
    Wrong("k_composition_score", "not divided", "not divided", {" / (w_ov.norm() * w_qk.norm())": ""}),
    Wrong("k_composition_score", "spectral norm", "spectral norm", {".norm()": ".svd().S[0]"}),
    Wrong("loss_without", "one position early", "which nothing tells", {"losses[:, copy:]": "losses[:, copy - 1 :]"}),
    Wrong("loss_without", "mean over the rows", "the rows themselves", {"others.clean_batch": "rows.clean_batch"}),
    Wrong("loss_without", "zeros", "gives the heads zeros", {"head].mean(0)": "head].mean(0) * 0"}),
    Wrong("loss_without", "late binding", "in a loop", {"hook, head=head, mean=mean": "hook"}),
    Wrong("loss_without", "positions averaged", "over positions too", {"head].mean(0)": "head].mean((0, 1))"}),
    Wrong("prefix_matches", "the earlier token", "right BEHIND it", {MATCHES: SAME, ".tril()": ".tril(-1)"}),
    Wrong("prefix_matches", "the future", "behind LATER tokens", {".tril()": ""}),
    Wrong("prefix_matches", "dest and src", "wrong way round", {".tril()": ".tril().T"}),
    Wrong("mended_text", "as it was", "as it was", {'"Here is " + ': ""}),
    Wrong("mended_text", "no space", "no space before it", {'"Here is "': '"Here is"'}),
    Wrong("mended_text", "another text", "ends with the one", {"+ text": '+ text + " again"'}),
)  # fmt: skip
