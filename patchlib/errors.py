"""Every error that patchlib raises on purpose: one class per stage, each message naming the mend.

Example:
    >>> patchlib.load_model("./nowhere")
    Traceback (most recent call last):
    patchlib.errors.ModelError: there is no folder './nowhere'; give a Hugging Face model folder, or a model's name

    All of them are ``ValueError``, and ``PatchlibError`` catches each:

    >>> try:
    ...     patchlib.sweep(model, task, site="brain")
    ... except patchlib.PatchlibError as error:
    ...     print(type(error).__name__)
    SweepError
"""


class PatchlibError(ValueError):
    """Base class: the command line prints the message of one of these instead of a traceback."""


class ModelError(PatchlibError):
    """A model could not be found, fetched, checked or loaded."""


class TaskError(PatchlibError):
    """A task's prompts, answers or settings are unusable."""


class AlignmentError(TaskError):
    """A clean and a corrupted prompt do not line up token by token."""


class SweepError(PatchlibError):
    """A sweep was asked for something that does not exist, or gave numbers that mean nothing."""


class ExactnessError(PatchlibError):
    """The fast engine and a plain forward pass with the same patch disagree by more than float noise."""


class RunError(PatchlibError):
    """A notebook, a parameter or an output folder cannot be used."""


class AnswerWarning(UserWarning):
    """The model ranks an answer in another spelling than the one given: with or without the space before it."""


class EngineWarning(UserWarning):
    """A model is swept with plain forwards, several times slower than with the fast engine, for the reason given."""


class FewPromptsWarning(UserWarning):
    """What is found with so few prompts is not found again with others."""


class ContrastWarning(UserWarning):
    """The difference between clean and corrupted prompts is none to divide by: effects would be noise, or reversed."""


class ReferenceWarning(UserWarning):
    """A mean ablation takes its mean over few prompts, so that its numbers depend on which they are."""
