"""Intervals of means and of ratios of means over prompts that hold with few, skewed or alike prompts.

They are Fieller's, with three amendments, each of which ``python -m tests.simulations.coverage`` shows the worth of:

1. A wording's prompts are one cluster: the variance is that of Bell and McCaffrey (CR2), with Satterthwaite's degrees
   of freedom, which are the usual ones (n - 1) where no two prompts share a wording.
2. The arm on the side of the longer tail is lengthened by twice Johnson's correction for skewness, as few prompts show
   about half of a population's; the other arm is left as it is, as what they show may be chance.
3. Where the mean below the line cannot be told from 0, the ratio could be anything, and both ends are NaN.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.stats import t as student

from patchlib._util import check_fraction, first_line, shown
from patchlib.errors import SweepError

PerPrompt = Float[np.ndarray, " example"]
Rows = Float[np.ndarray, "row example"]
Ends = tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]
Clusters = Sequence[str] | Shaped[np.ndarray, " example"] | None
"""A label for each prompt: those with the same one are not independent of one another."""
TIMES_SEEN = 2
"""How much more skewed a population is than a sample of 6 to 16 shows; with 1, means of lognormal effects hold .88."""
MIN_CLUSTERS = 4
"""Of fewer wordings nothing can be said of others, and of these wordings their prompts are independent draws."""


def mean_interval(values: Rows, confidence: float = 0.95, clusters: Clusters = None) -> Ends:
    """Interval of each row's mean over prompts: Student's, longer where the values have a long tail.

    Args:
        values: A number for each row and prompt, in any units.
        confidence, clusters: As for ``ratio_interval``.

    Returns:
        Its low and its high ends, in the units of the values; NaN for a single prompt.

    Raises:
        SweepError: Values that are no such numbers, ``confidence`` no fraction, other numbers of labels and prompts.

    Example:
        Three prompts that are alike and one that is not reach further to its side:

        >>> low, high = patchlib.stats.mean_interval(np.array([[1.0, 1.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]]))
        >>> low.round(2).tolist(), high.round(2).tolist()
        ([0.45, 5.0], [3.82, 5.0])
    """
    values = _numbers("values", values, 2)
    return ratio_intervals(values, np.ones_like(values), confidence, clusters)


def ratio_interval(
    above: PerPrompt, below: PerPrompt, confidence: float = 0.95, clusters: Clusters = None
) -> tuple[float, float]:
    """Interval of a ratio of means over the same prompts, Fieller's (1954, "Some problems in interval estimation").

    Prompts of one wording count as one cluster (Bell and McCaffrey 2002, "Bias reduction in standard errors for linear
    regression with multi-stage samples"), and the arm on the side of the longer tail is lengthened for skewness
    (Johnson 1978, "Modified t tests and confidence intervals for asymmetrical populations").

    Args:
        above: A number for each prompt, whose mean is above the line.
        below: And below it.
        confidence: Coverage aimed at.
        clusters: A label for each prompt, such as ``PromptPairs.clusters``. None, or fewer than four labels: each
            prompt is taken as independent of the others, so that the interval is for other prompts of these wordings.

    Returns:
        The low and the high end; NaN for a single prompt, and where the mean below the line cannot be told from 0 at
        this confidence, so that the ratio could be anything.

    Raises:
        SweepError: As ``mean_interval``, or other numbers of prompts above and below the line.

    Example:
        Where each prompt has the same ratio, other prompts would not change it; where the mean below the line may be
        0, nothing is known of it:

        >>> patchlib.stats.ratio_interval(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0]))
        (0.5, 0.5)
        >>> patchlib.stats.ratio_interval(np.array([1.0, 2.0, 4.0]), np.array([2.0, -3.0, 4.0]))
        (nan, nan)
    """
    above, below = _numbers("above", above, 1), _numbers("below", below, 1)
    if len(above) != len(below):
        raise SweepError(f"{len(above)} numbers above the line and {len(below)} below: give both for the same prompts.")
    low, high = ratio_intervals(above[None], below[None], confidence, clusters)
    return float(low[0]), float(high[0])


def widened(
    point: float, ends: tuple[float, float], error: float, df: int, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval with another source of error in it, independent of the first: the squares of the arms add up.

    Args:
        point: What the interval is of.
        ends: Its low and high ends.
        error: The other source's standard error.
        df: Its degrees of freedom.
        confidence: That of the interval.
    """
    other = float(student.ppf((1 + confidence) / 2, df)) * error
    low, high = ends
    return point - float(np.hypot(point - low, other)), point + float(np.hypot(high - point, other))


def ratio_intervals(above: Rows, below: Rows, confidence: float = 0.95, clusters: Clusters = None) -> Ends:
    """``ratio_interval`` of each row."""
    check_fraction("confidence", confidence)
    n = above.shape[-1]
    members = cluster_members(clusters, n)  # [example cluster]
    n_clusters = members.shape[1]
    if n_clusters < 2:  # a single prompt says nothing of how far others would be from it
        return np.full(len(above), np.nan), np.full(len(above), np.nan)
    quantile = student.ppf((1 + confidence) / 2, _degrees_of_freedom(members.sum(0)))
    mean_above, mean_below = above.mean(-1), below.mean(-1)  # [row]
    errors_below = _cluster_errors(below, members)  # [row cluster]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = mean_above / mean_below
        errors = _cluster_errors(above, members) - ratio[:, None] * errors_below  # of above - ratio * below
        # Fieller: those ratio + x for which the mean of above - (ratio + x) * below is within t errors of 0. That is
        # room * x^2 + 2 * t^2 * covariance * x - t^2 * variance <= 0.
        variance, covariance = (errors**2).sum(-1), (errors * errors_below).sum(-1)
        room = mean_below**2 - quantile**2 * (errors_below**2).sum(-1)
        middle = -(quantile**2) * covariance
        root = np.sqrt(middle**2 + np.abs(room) * quantile**2 * variance)
        tail = _lengthening(errors * np.sign(mean_below)[:, None], quantile)
        low = ratio + (middle - root) / room * (1 + np.maximum(-tail, 0))
        high = ratio + (middle + root) / room * (1 + np.maximum(tail, 0))
        # Prompts that all have the same ratio, but for float noise, leave no doubt of it.
        is_point = variance <= 1e-12 * ratio**2 * (errors_below**2).sum(-1)
        is_bounded = room > 1e-12 * mean_below**2
    low, high = (np.where(is_point, ratio, np.where(is_bounded, end, np.nan)) for end in (low, high))
    return low, high


def t_p_values(values: Rows, clusters: Clusters = None) -> Float[np.ndarray, " row"]:
    """Two-sided p-value of each row's mean being 0, Student's, with the errors and degrees of freedom of the intervals.

    Unlike a test of signs it can be small with few prompts, as a correction for hundreds of cells needs it to be.
    """
    members = cluster_members(clusters, values.shape[-1])
    if members.shape[1] < 2:
        return np.full(len(values), np.nan)
    error = np.sqrt((_cluster_errors(values, members) ** 2).sum(-1))  # [row]
    mean = np.abs(values.mean(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values: np.ndarray = 2 * student.sf(mean / error, _degrees_of_freedom(members.sum(0)))
    return np.where(error > 0, p_values, (mean == 0).astype("float64"))


def cluster_members(clusters: Clusters, n: int) -> Float[np.ndarray, "example cluster"]:
    """1 where a prompt belongs to a cluster, else 0; each prompt is its own where there are too few clusters."""
    if clusters is None:
        return np.eye(n)
    mend = "give a label for each prompt, as in PromptPairs.clusters"
    cluster_of, different = numbered("clusters", clusters, mend)
    if len(cluster_of) not in (0, n):
        raise SweepError(f"{len(cluster_of)} labels of clusters for {n} prompts: {mend}.")
    return np.eye(n) if len(different) < MIN_CLUSTERS else np.eye(len(different))[cluster_of]


def numbered(
    kind: str, labels: object, mend: str
) -> tuple[Int[np.ndarray, " label"], Shaped[np.ndarray, " different"]]:
    """Which of the different labels each one is, and these in the order of their first; SweepError for no labels."""
    try:
        names = np.asarray(labels, dtype=object)
        if names.ndim != 1:
            raise TypeError("they are no list")
        return pd.factorize(names, use_na_sentinel=False)
    except (TypeError, ValueError, RuntimeError) as error:  # unhashable labels, a tensor that has a gradient
        raise SweepError(f"The {kind} {shown(labels)} are no labels ({first_line(error)}): {mend}.") from error


def _cluster_errors(values: Rows, members: Float[np.ndarray, "example cluster"]) -> Float[np.ndarray, "row cluster"]:
    """What each cluster adds to the error of the mean; the sum of squares is the mean's variance (CR2)."""
    residuals = values - values.mean(-1, keepdims=True)
    # A cluster pulls the mean to itself, by its share of the prompts: its residuals are too small by as much.
    scale: np.ndarray = np.sqrt(1 - members.mean(0)) * len(members)  # [cluster]
    errors: np.ndarray = residuals @ members / scale
    return errors


def _degrees_of_freedom(sizes: Float[np.ndarray, " cluster"]) -> float:
    """Satterthwaite's, of the CR2 variance of a mean of independent prompts: one less than clusters of equal size."""
    n = sizes.sum()
    across = sizes**2 / (n - sizes)
    return float(n**2 / ((sizes**2).sum() + across.sum() ** 2 - (across**2).sum()))


def _lengthening(errors: Float[np.ndarray, "row cluster"], quantile: float) -> Float[np.ndarray, " row"]:
    """By what share the arm toward the longer tail is too short: above 0 for the high end, below 0 for the low one."""
    n = errors.shape[1]
    if n < 3:
        return np.zeros(len(errors))
    squares = (errors**2).sum(-1)
    skewness = np.divide((errors**3).sum(-1), squares**1.5, out=np.zeros(len(errors)), where=squares**1.5 > 0)
    unbiased = skewness * np.sqrt(n * (n - 1)) / (n - 2)  # of the mean: the prompts' own over the root of n
    lengthening: np.ndarray = TIMES_SEEN * unbiased * (2 * quantile**2 + 1) / (6 * quantile)
    return lengthening


def _numbers(name: str, values: object, n_dims: int) -> Float[np.ndarray, "*row example"]:
    """Values as an array with this many axes, the last of them prompts; SweepError for what is none."""
    try:
        numbers = np.asarray(values, dtype="float64")
    except (TypeError, ValueError, OverflowError) as error:
        raise SweepError(f"The {name} cannot be read as numbers ({first_line(error)}).") from error
    if numbers.ndim != n_dims or not numbers.size:
        axes = "a number for each prompt" if n_dims == 1 else "a row of numbers, one for each prompt, for each mean"
        raise SweepError(f"The {name} must be {axes}, but have shape {list(numbers.shape)}.")
    return numbers
