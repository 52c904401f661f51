"""Typical wrong answers to coursework 06, the project."""

from tests.coursework import Wrong

HEADS = '"z", ("layer", "head")'

WRONG = (
    Wrong("own_pairs", "12 pairs", "12 pairs: fewer than 20", {"n = 24": "n = 12"}),
    Wrong("own_pairs", "one over and over", "1 different clean prompts", {
        "return pairs\n": "return pairs.select([0] * n)\n",
    }),
    Wrong("own_pairs", "another sentence", "Change one thing", {
        "return pairs\n": "return replace(pairs, corrupted_tokens=pairs.corrupted_tokens[::-1])\n",
    }),
    Wrong("own_pairs", "answers swapped", "no usable contrast", {
        "return pairs\n": "return replace(pairs, answers=pairs.answers.flip(1))\n",
    }),
    Wrong("own_pairs", "no names", "has no name", {
        "return pairs\n": "return replace(pairs, roles={}, spans={})\n",
    }),
    Wrong("own_pairs", "one seed for all", "again: what is picked", {
        "shift=seed": "shift=0", "in drawn(seed, n)": "in drawn(0, n)",
    }),
    Wrong("null_set", "a contrast", "the SAME answer", {"return null\n": "return own_pairs(model, seed)\n"}),
    Wrong("null_set", "4 pairs", "4 pairs: take 10", {"return null\n": "return null.select(range(4))\n"}),
    Wrong("null_set", "other answers", "on one scale", {
        "return null\n": "return replace(null, answers=null.answers.flip(1))\n",
    }),
    Wrong("two_maps", "one question twice", "asks what 'heads' asks", {'"resid_pre", ("layer", "role")': HEADS}),
    Wrong("two_maps", "an estimate", "estimate from gradients", {"patchlib.sweep": "patchlib.attribute"}),
    Wrong("two_maps", "half of the pairs", "sweep all 24", {"(model, pairs, ": "(model, pairs.select(range(12)), "}),
    Wrong("two_maps", "one map", "two results or more", {'"stream": patchlib': '"heads": patchlib'}),
    Wrong("record", "no null set", "has no null set", {"null_set(model, seed)": "own_pairs(model, seed + 1)"}),
    Wrong("record", "no second seed", "no second seed", {"own_pairs(model, seed + 1)": "null_set(model, seed)"}),
    Wrong("record", "no seed", "lacks the parameters seed", {', "seed": seed': ""}),
    Wrong("record", "not what was run", "n_prompts=8", {'"n_prompts": len(pairs)': '"n_prompts": 8'}),
    Wrong("record", "no return", "did you forget `return`?", {"return patchlib.save_run": "patchlib.save_run"}),
)  # fmt: skip
