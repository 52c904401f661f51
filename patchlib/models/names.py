"""A model's name -> the local folder or hub name that holds it, or an error that names the mend."""

import difflib
import textwrap
from pathlib import Path

from huggingface_hub import errors as hub_errors
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformer_lens.model_bridge.sources.transformers.helpers import get_hf_model_class_for_architecture
from transformer_lens.tools.model_registry import api as registry
from transformer_lens.tools.model_registry.registry_io import load_model_aliases, resolve_model_alias
from transformers import AutoConfig, AutoModelForCausalLM

from patchlib._util import first_line
from patchlib.errors import ModelError
from patchlib.models.default import DEFAULT_MODEL


def list_models(contains: str = "") -> list[str]:
    """Names for `load_model`, the default first, then the model hub names that TransformerLens has verified.

    Works offline. Thousands of further models of the same architectures load too, as do local folders.

    Args:
        contains: Keep only names with this text in them, in capitals or not.

    Returns:
        Names, in alphabetical order after the default.

    Example:
        >>> patchlib.list_models()[0]
        'smollm2-135m'
        >>> "EleutherAI/pythia-70m" in patchlib.list_models(contains="PYTHIA")
        True
    """
    supported = registry.get_supported_models(verified_only=True)
    verified = {model.model_id for model in supported if is_decoder(model.architecture_id)}
    names = (DEFAULT_MODEL, *sorted(verified, key=str.casefold))
    return [name for name in names if contains.casefold() in name.casefold()]


def source_of(name: str) -> str:
    """The local folder or hub name that holds the model, checked as far as that goes without its weights."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        missing = [pattern for pattern in ("config.json", "*.safetensors") if not any(folder.glob(pattern))]
        if missing:
            raise ModelError(
                f"the folder {name!r} has no {' and no '.join(missing)}; save the model and its tokenizer "
                "there with save_pretrained (pickled weights are not loaded, because they can run code)"
            )
        source = str(folder)
    elif folder.exists() or name.startswith((".", "~")) or folder.is_absolute() or name.count("/") > 1:
        raise ModelError(f"there is no folder {name!r}; give a Hugging Face model folder, or a model's name")
    else:
        source = resolve_model_alias(name) or name
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers wraps what the hub says in one of several classes
        raise _refusal(source, error) from error
    try:
        architecture = determine_architecture_from_hf_config(config)
    except ValueError as error:
        raise unsupported(name, ", ".join(config.architectures or [config.model_type])) from error
    if not is_decoder(architecture):
        raise unsupported(name, architecture)
    return source


def is_decoder(architecture: str) -> bool:
    """Whether TransformerLens loads this architecture as a decoder-only language model."""
    return get_hf_model_class_for_architecture(architecture) is AutoModelForCausalLM


def _refusal(source: str, error: Exception) -> ModelError:
    """Why no config could be read, told apart by what the model hub client raised underneath."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(hub_errors.GatedRepoError):
        return ModelError(f"{source!r} needs permission: accept its terms on the model hub, then set HF_TOKEN")
    if has(hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError):
        return ModelError(
            f"there is no model {source!r}{_similar(source)}; list_models(contains='...') gives names, and "
            "the path of a Hugging Face folder will do as well"
        )
    if has(hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled):
        return ModelError(
            f"{source!r} is not on this machine and the model hub cannot be reached{_similar(source)}; "
            f"connect to the network, give the path of a Hugging Face folder, or take {DEFAULT_MODEL!r}, "
            "which needs no hub"
        )
    if isinstance(error, ValueError):  # a model type that transformers lacks, or one that brings its own code
        return unsupported(source, brief(error))
    return ModelError(f"the config of {source!r} cannot be read ({brief(error)}); check the name and the file")


def unsupported(name: str, what: str) -> ModelError:
    """The refusal of an architecture."""
    return ModelError(
        f"the model {name!r} is not supported ({what}); patchlib takes decoder-only language models that "
        "TransformerLens knows and never runs a model's own code: choose one from list_models()"
    )


def _similar(name: str) -> str:
    """' (similar names: ...)', or nothing. A model goes by its full name and by the part after the slash."""
    models = {key.casefold(): model for model in reversed(list_models()) for key in (model, model.split("/")[-1])}
    if name in models.values() or name in load_model_aliases():
        return ""
    matches = difflib.get_close_matches(name.casefold(), models, n=6, cutoff=0.7)
    names = list(dict.fromkeys(models[match] for match in matches))[:3]
    return f" (similar names: {', '.join(names)})" if names else ""


def brief(error: BaseException) -> str:
    """The first line of what the error says, or as much of it as is readable."""
    return textwrap.shorten(first_line(error), 200)
