"""Heads that work together: a previous-token head and an induction head, a head and its backup."""

from __future__ import annotations

import random

from patchlib.toys.build import (
    ANSWER,
    BOS,
    END,
    FIRST,
    N_TOKENS,
    NO,
    NOTE,
    POS,
    SECOND,
    SHARP,
    TOKEN,
    TRUE,
    YES,
    Prompt,
    Toy,
    X,
    drawn_task,
    questions,
    read,
    unwritten_model,
    write_head,
)


def induction(n_prompts: int = 24, seed: int = 0) -> Toy:
    """A previous-token head and an induction head: ".. A B .. C D .. A" goes on with B (Olsson et al. 2022).

    The previous-token head, L0H1::

        q   SHARP POS               at position p it looks for p,
        k   POS, moved by one       and position p - 1 is found by that
        v   TOKEN                   it moves the token
        o   NOTE                    into the notes: "the token before me"

    The induction head, L1H2::

        q   SHARP TOKEN             it looks for the token that it stands on,
        k   NOTE                    and a position is found by the token before it
        v   TOKEN                   it moves the token
        o   ANSWER                  to where the unembedding reads

    The prompts are of three kinds in turn, and each corruption turns the answer from B to D: the last token becomes C
    (what is looked for), A and C change places (what is found), B and D change places (what is moved).

    Args:
        n_prompts: As many of each kind, where it can be divided by three.
        seed: Of the prompts, and of the weights that are in no circuit.

    Returns:
        The toy: 5 of its 110 edges are its circuit.

    Raises:
        TaskError: ``n_prompts`` or ``seed`` is no such number.

    Example:
        >>> toy = patchlib.toys.induction()
        >>> toy.task.clean_tokens[1].tolist(), toy.task.corrupted_tokens[1].tolist()
        ([0, 15, 8, 7, 6, 13, 5, 4, 8], [0, 15, 13, 7, 6, 8, 5, 4, 8])
        >>> pattern = patchlib.attention_patterns(toy.model, toy.task.clean_tokens[1], [(0, 1), (1, 2)])
        >>> pattern[:, -1].values.argmax(-1).tolist()  # where each looks from the last token, position 8
        [7, 3]
    """
    model = unwritten_model("toy: induction", seed)
    write_head(model, FIRST, q=SHARP * read(POS), k=read(POS, shift=1), v=read(TOKEN), o=read(NOTE))
    write_head(model, SECOND, q=SHARP * read(TOKEN), k=read(NOTE), v=read(TOKEN), o=read(ANSWER))

    def prompt(i: int, rng: random.Random) -> Prompt:
        a, b, c, d, *fillers = rng.sample(range(1, N_TOKENS), 7)

        def tokens(*part: int) -> list[int]:
            return [BOS, fillers[0], *part[:2], fillers[1], *part[2:4], fillers[2], part[4]]

        changed = [(a, b, c, d, c), (c, b, a, d, a), (a, d, c, b, a)][i % 3]
        return tokens(a, b, c, d, a), tokens(*changed), b, d

    roles = {"A": 2, "B": 3, "C": 5, "D": 6, "END": 8}
    edges = {
        ("embed", "v of L0KV1"),  # the token that is noted
        ("L0H1", "k of L1KV2"),  # the note that is found
        ("embed", "q of L1H2"),  # the token that is looked for
        ("embed", "v of L1KV2"),  # the token that is moved
        ("L1H2", "logits"),
    }
    about = (
        "L0H1 notes at each token the one before it. L1H2 looks for the note of the last token, and copies what is "
        "there. Where it looks is all or nothing, so that gradients are nearly 0: they miss the edges into its q and k."
    )
    return Toy(model, drawn_task(model, n_prompts, seed, prompt, roles), frozenset(edges), about)


def backup(n_prompts: int = 24, seed: int = 0) -> Toy:
    """A head that answers, and another that does so where the first is silent (Wang et al. 2022, section 3.3).

    The first head, L0H1, looks from the last position at position 2, answers, and notes that it has answered::

        q   SHARP POS 6             from the last position, 6,
        k   POS 2                   to position 2
        v   TOKEN "yes"             is it "yes"? (it is silent at "no")
        o   ANSWER "true", NOTE 0   "true"; and: answered

    The backup head, L1H2, looks there too. Where there is a note, it looks at BOS twice as hard, which gives nothing::

        q   SHARP POS 6, SHARP NOTE 0       from the last position; where something was noted
        k   POS 2,       2 POS 0            to position 2;          to BOS
        v   TOKEN "yes" - TOKEN "no"        which of the two is it?
        o   ANSWER "true"                   "true", or less than that

    Clean prompts have "yes", which the first head answers; corrupted ones "no", which the backup head answers. Whatever
    silences the first head in a clean prompt, noising it or zeros, wakes the other, and the answer stays.

    Args:
        n_prompts: Which differ in tokens that mean nothing.
        seed: Of the prompts, and of the weights that are in no circuit.

    Returns:
        The toy: 5 of its 110 edges are its circuit.

    Raises:
        TaskError: ``n_prompts`` or ``seed`` is no such number.

    Example:
        Of a logit difference of 3.4, what is lost without the first head, without its backup, and without both?

        >>> toy = patchlib.toys.backup()
        >>> ablation = patchlib.Ablation(toy.model, toy.task, source="zero")
        >>> sets = {"first": [(0, 1)], "backup": [(1, 2)], "both": [(0, 1), (1, 2)]}
        >>> lost = -patchlib.knock_out(ablation, sets).change
        >>> (lost > 1).to_dict()
        {'none': False, 'first': False, 'backup': False, 'both': True}
    """
    model = unwritten_model("toy: backup", seed)
    first_answers = read([TOKEN[YES]])
    both_write = read([ANSWER[TRUE]]) + read([NOTE[0]])
    look = {"q": SHARP * read([POS[END]]), "k": read([POS[X]])}
    write_head(model, FIRST, **look, v=first_answers, o=both_write)
    rest = {"q": SHARP * read([NOTE[0]], shift=1), "k": 2 * read([POS[0]], shift=1)}
    which = read([TOKEN[YES]]) - read([TOKEN[NO]])
    write_head(model, SECOND, q=look["q"] + rest["q"], k=look["k"] + rest["k"], v=which, o=read([ANSWER[TRUE]]))

    edges = {
        ("embed", "v of L0KV1"),
        ("L0H1", "logits"),
        ("L0H1", "q of L1H2"),  # the note that puts the backup head to rest
        ("embed", "v of L1KV2"),
        ("L1H2", "logits"),
    }
    about = (
        "L0H1 says 'true' where it sees 'yes', and L1H2 answers where L0H1 is silent. Denoising sees every edge; "
        "noising does not see what either of them reads, since the other one takes over."
    )
    task = questions(model, n_prompts, seed, {"X": X})
    return Toy(model, task, frozenset(edges), about)
