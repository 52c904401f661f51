"""Two heads of which one is enough, and two of which both are needed."""

from __future__ import annotations

from patchlib.toys.build import (
    ANSWER,
    END,
    FIRST,
    NOTE,
    POS,
    SECOND,
    SHARP,
    TOKEN,
    TRUE,
    YES,
    Toy,
    X,
    Y,
    questions,
    read,
    unwritten_model,
    write_head,
)


def or_gate(n_prompts: int = 24, seed: int = 0) -> Toy:
    """Two heads of which each is enough: "yes" at one of two positions makes the answer "true".

    L0H1 looks from the last position at position 2, and L1H2 at position 4::

        q   SHARP POS 6             from the last position, 6,
        k   POS 2, or POS 4         to this one
        v   TOKEN "yes"             is it "yes"?
        o   NOTE 0                  if so, one more

    MLP 1 reads the sum s of the two and answers with two neurons: relu(s + .5) counts, and relu(s - .75) takes off
    again what is above .75. So s = 0 gives -1 to "true", and s = 1 and s = 2 give the same +1::

        in      NOTE 0              biases .5, -.75
        out     ANSWER "true"       1 / .375, -1 / .375; bias -.875 / .375

    Clean prompts have "yes" twice, corrupted ones "no" twice. Denoising either head is enough, and noising one changes
    nothing: the other is there.

    Args:
        n_prompts: Which differ in tokens that mean nothing.
        seed: Of the prompts, and of the weights that are in no circuit.

    Returns:
        The toy: 5 of its 110 edges are its circuit.

    Raises:
        TaskError: ``n_prompts`` or ``seed`` is no such number.

    Example:
        >>> toy = patchlib.toys.or_gate()
        >>> for direction in ("denoise", "noise"):
        ...     result = patchlib.sweep(toy.model, toy.task, "z", ("layer", "head"), direction, progress=False)
        ...     print(direction, result.effect[0].values[[0, 1], [1, 2]].round(1) + 0)
        denoise [1. 1.]
        noise [0. 0.]
    """
    about = (
        "L0H1 and L1H2 each look whether a token is 'yes', and MLP1 says 'true' if one of them found it. Denoising "
        "sees both; noising sees neither, since one is enough."
    )
    return _gate("toy: or", [(0.5, 1.0), (-0.75, -1.0)], -0.875, about, n_prompts, seed)


def and_gate(n_prompts: int = 24, seed: int = 0) -> Toy:
    """Two heads of which both are needed: "yes" at both of two positions makes the answer "true".

    The heads are those of ``or_gate``. MLP 1 needs one neuron, relu(s - 1.25), which is 0 for s = 0 and for s = 1::

        in      NOTE 0              bias -1.25
        out     ANSWER "true"       1 / .375; bias -.375 / .375

    Clean prompts have "yes" twice, corrupted ones "no" twice. Noising either head spoils the answer, and denoising one
    is not enough.

    Args:
        n_prompts: Which differ in tokens that mean nothing.
        seed: Of the prompts, and of the weights that are in no circuit.

    Returns:
        The toy: 5 of its 110 edges are its circuit.

    Raises:
        TaskError: ``n_prompts`` or ``seed`` is no such number.

    Example:
        >>> toy = patchlib.toys.and_gate()
        >>> toy.task.clean_tokens[0].tolist()  # BOS, yes at 2 and 4, the question at 6; the others mean nothing
        [0, 12, 2, 6, 2, 10, 1]
        >>> toy.edges == patchlib.toys.or_gate().edges
        True
    """
    about = (
        "L0H1 and L1H2 each look whether a token is 'yes', and MLP1 says 'true' if both of them found it. Noising sees "
        "both; denoising sees neither, since one is not enough."
    )
    return _gate("toy: and", [(-1.25, 1.0)], -0.375, about, n_prompts, seed)


def _gate(name: str, neurons: list[tuple[float, float]], bias: float, about: str, n_prompts: int, seed: int) -> Toy:
    """Two heads that note "yes" and an MLP that reads how many did: neurons of (bias, weight out)."""
    model = unwritten_model(name, seed)
    for head, position in ((FIRST, X), (SECOND, Y)):
        q, k = SHARP * read([POS[END]]), read([POS[position]])
        write_head(model, head, q=q, k=k, v=read([TOKEN[YES]]), o=read([NOTE[0]]))
    half = 0.375  # of the way from false to true, so that they get -1 and 1
    fc_in, fc_out = (getattr(model.blocks[1].mlp, part).original_component for part in ("in", "out"))
    for neuron, (threshold, weight) in enumerate(neurons):
        fc_in.weight[neuron], fc_out.weight[:, neuron] = 0, 0
        fc_in.weight[neuron, NOTE[0]], fc_in.bias[neuron] = 1, threshold
        fc_out.weight[ANSWER[TRUE], neuron] = weight / half
    fc_out.bias[ANSWER[TRUE]] = bias / half

    edges = {
        ("embed", "v of L0KV1"),
        ("embed", "v of L1KV2"),
        ("L0H1", "MLP1"),
        ("L1H2", "MLP1"),
        ("MLP1", "logits"),
    }
    task = questions(model, n_prompts, seed, {"X": X, "Y": Y})
    return Toy(model, task, frozenset(edges), about)
