"""What tasks there are."""

import pandas as pd

from patchlib.tasks.field.addition import Addition
from patchlib.tasks.field.agreement import ClauseAgreement, SimpleAgreement
from patchlib.tasks.field.base import FieldTask
from patchlib.tasks.field.docstring import Docstring
from patchlib.tasks.field.facts import Capitals, Facts
from patchlib.tasks.field.greater_than import GreaterThan
from patchlib.tasks.field.objects import ColoredObjects, MultipleChoice
from patchlib.tasks.field.pronouns import Pronouns

FIELD_TASKS: tuple[type[FieldTask], ...] = (
    GreaterThan,
    SimpleAgreement,
    ClauseAgreement,
    Pronouns,
    Capitals,
    Facts,
    Docstring,
    ColoredObjects,
    Addition,
    MultipleChoice,
)
OTHERS = (
    ("IOIDataset", "Wang et al. 2022", "The name that came once, in a sentence in which another came twice"),
    ("InductionDataset", "Olsson et al. 2022", "What followed the first time, when something comes again"),
)


def list() -> pd.DataFrame:
    """The tasks that patchlib has, each a class of that name.

    Returns:
        ``name`` (in ``patchlib.tasks``; the last two in ``patchlib``), ``source`` and ``asks``.

    Example:
        >>> table = patchlib.tasks.list()
        >>> print(table.head(2).to_string(index=False))
                   name                           source                                                         asks
            GreaterThan   Hanna, Liu and Variengien 2023 A year of the same century, later than the one in the prompt
        SimpleAgreement Linzen, Dupoux and Goldberg 2016              A verb of the subject's number, right behind it
    """
    rows = [(task.__name__, task.source, task.asks) for task in FIELD_TASKS]
    return pd.DataFrame([*rows, *OTHERS], columns=["name", "source", "asks"])
