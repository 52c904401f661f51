"""What a transplanted state makes the model say, in words."""

import xarray as xr

from patchlib.plots.wording import check_transplant


def of_transplant(result: xr.Dataset) -> str:
    """From which layer into which the answer, or the most probable token, comes out most, beside none.

    Args:
        result: From ``transplant``.

    Returns:
        Two sentences.

    Raises:
        SweepError: This is no transplant.

    Example:
        >>> texts = "The capital city of the country Japan is called", "The capital city of the country it is called"
        >>> how = {"source_position": "Japan", "target_position": "it", "answer": " Tokyo"}
        >>> print(patchlib.plots.takeaways.of_transplant(patchlib.transplant(model, *texts, [0, 9], 0, **how)))
        With ' Japan' of layer 9 in place of ' it' in layer 0 the probability of ' Tokyo' is 0.29, without 0.00. What
        would follow is ' Tokyo' (0.29), without ...
    """
    check_transplant(result)
    attrs = result.attrs
    of_answer = "answer_prob" in result
    probs = result.answer_prob if of_answer else result.prob.isel(rank=0, drop=True)
    at = {str(dim): int(index) for dim, index in probs.argmax(...).items()}
    best = result.isel(at)
    source = int(best.source_layer)
    target = int(best.target_layer) if "target_layer" in best.coords else source
    where = f"With {attrs['source_token']!r} of layer {source} in place of {attrs['target_token']!r} in layer {target}"
    follows = f"{str(best.token.values[0])!r} ({float(best.prob[0]):.2f})"
    before = f"{str(result.unpatched_token.values[0])!r} ({float(result.unpatched_prob[0]):.2f})"
    if of_answer:
        prob, without = float(best.answer_prob), float(result.unpatched_answer_prob)
        answer = f"the probability of {attrs['answer']!r} is {prob:.2f}, without {without:.2f}"
        return f"{where} {answer}. What would follow is {follows}, without {before}."
    said = f"The prompt's own prediction moves by {float(best.kl):.2f} nats."
    return f"{where} what would follow is {follows}, without {before}. {said}"
