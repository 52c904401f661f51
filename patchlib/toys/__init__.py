"""Small transformers built by hand: every weight of the circuit is written down, so that its edges are known.

A method that finds circuits can be measured by them: the truth is ``Toy.edges``. Each has 2 layers of 4 heads and an
MLP, no norms, and reads 16 tokens at up to 12 positions. Heads and neurons that are in no circuit have small random
weights, so that no score is exactly 0: they are what a method has to tell the circuit from.

The residual stream is four parts of one number for each thing that they can say, and so the weights can be read:

==========  ============  =============================================================
``TOKEN``   0 to 15       which token this is, written by the embedding
``POS``     16 to 27      which position this is, written by the positional embedding
``NOTE``    28 to 43      what one head tells another, or an MLP
``ANSWER``  44 to 59      which token comes next, read by the unembedding
==========  ============  =============================================================

An edge is in the truth where what it carries differs between clean and corrupted prompts and moves the answer.
Positions are the same in both: no patch can see what carries them, such as the queries of a previous-token head.

Example:
    >>> toy = patchlib.toys.and_gate()
    >>> print(*sorted(toy.edges), sep=" | ")
    ('L0H1', 'MLP1') | ('L1H2', 'MLP1') | ('MLP1', 'logits') | ('embed', 'v of L0KV1') | ('embed', 'v of L1KV2')

    Both heads are needed. So noising finds each of them, and denoising neither:

    >>> for direction in ("noise", "denoise"):
    ...     result = patchlib.sweep(toy.model, toy.task, "z", ("layer", "head"), direction, progress=False)
    ...     print(direction, result.effect[0].values[[0, 1], [1, 2]].round(1) + 0)
    noise [1. 1.]
    denoise [0. 0.]
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
