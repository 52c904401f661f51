"""One of the configs twice: as patchlib loads it, and as Hugging Face has it, with its parts named."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from patchlib.models.load import load_model, without_loading_bars
from tests.architectures.configs import config_of
from tests.tiny import randomise_gains_and_biases, tiny_tokenizer

PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo", "Wo", "linear_out", "output_linear")
ATTENTIONS = ("self_attn", "attention", "attn", "self_attention", "attn.attention")


class Hand:
    """A model of Hugging Face, run by hand: PyTorch's hooks on its own modules.

    Attributes:
        layers, attentions, projections: The decoder layers, and the attention and output projection of each, None in
            layers without attention.
        norm, unembed: What follows the last layer.
    """

    def __init__(self, folder: str) -> None:
        with without_loading_bars():
            self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        self.model.requires_grad_(False)
        stacks = [module for module in self.model.modules() if isinstance(module, torch.nn.ModuleList)]
        self.layers = list(next(stack for stack in stacks if len(stack) == n_layers_of(self.model.config)))
        self.attentions = [first_of(layer, ATTENTIONS) or by_class(layer) for layer in self.layers]
        self.projections = [attn and first_of(attn, PROJECTIONS) for attn in self.attentions]
        self.unembed = self.model.get_output_embeddings()

    def logits(self, tokens: Tensor) -> Tensor:
        """[example pos vocab]"""
        return self.model(tokens, use_cache=False).logits

    def patched(self, tokens: Tensor, *hooks: tuple[torch.nn.Module, Callable[[Tensor], Tensor], str]) -> Tensor:
        """Logits with changes of modules' inputs or outputs, each (module, change, "in" or "out")."""
        with ExitStack() as stack:
            for module, change, side in hooks:
                stack.enter_context(changed(module, change, side))
            return self.logits(tokens)

    def seen(self, tokens: Tensor, modules: dict[Any, tuple[torch.nn.Module, str]]) -> dict[Any, Tensor]:
        """What goes into or comes out of some modules, by key."""
        kept: dict[Any, Tensor] = {}

        def keep(value: Tensor, key: Any) -> Tensor:
            kept[key] = value.detach().clone()
            return value

        hooks = [(module, functools.partial(keep, key=key), side) for key, (module, side) in modules.items()]
        self.patched(tokens, *hooks)
        return kept

    def seen_somehow(self, tokens: Tensor, modules: dict[Any, tuple[torch.nn.Module, str]]) -> dict[Any, Tensor]:
        """The same, of those modules that are called, and with a tensor first."""
        kept: dict[Any, Tensor] = {}
        with ExitStack() as stack:
            for key, (module, side) in modules.items():

                def keep(module: Any, args: Any, kwargs: Any, output: Any = None, key: Any = key) -> None:
                    given = args[0] if args else kwargs.get("hidden_states")
                    value = given if output is None else output[0] if isinstance(output, tuple | list) else output
                    if isinstance(value, Tensor):
                        kept[key] = value.detach().clone()

                register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
                stack.enter_context(register(keep, with_kwargs=True))
            self.logits(tokens)
        return kept

    @functools.cached_property
    def norm(self) -> torch.nn.Module | None:
        """The last norm: what gives the unembedding its input."""
        given: dict[torch.nn.Module, Tensor] = {}
        with ExitStack() as stack:
            for module in self.model.modules():
                if not list(module.children()) and module is not self.unembed:
                    stack.enter_context(module.register_forward_hook(lambda m, a, o: given.__setitem__(m, o)))
            stack.enter_context(self.unembed.register_forward_pre_hook(lambda m, a: given.__setitem__(m, a[0])))
            self.logits(torch.arange(4)[None] + 9)
        entering = given.pop(self.unembed)
        same = [m for m, out in given.items() if isinstance(out, Tensor) and out.shape == entering.shape]
        same = [m for m in same if torch.equal(given[m], entering) and "Dropout" not in type(m).__name__]
        return same[-1] if same else None


def n_layers_of(config: Any) -> int:
    """How many decoder layers a config asks for."""
    return next(
        int(getattr(config, name)) for name in ("num_hidden_layers", "n_layer", "num_layers") if hasattr(config, name)
    )


def first_of(module: torch.nn.Module, names: tuple[str, ...]) -> torch.nn.Module | None:
    """The first of some submodules that there is, the deepest first."""
    for name in reversed(names):
        try:
            return module.get_submodule(name)
        except AttributeError:
            continue
    return None


def by_class(layer: torch.nn.Module) -> torch.nn.Module | None:
    """A part of a layer that is called a mixer, and is attention in some layers."""
    return next((part for part in layer.children() if type(part).__name__.endswith("Attention")), None)


@contextmanager
def changed(module: torch.nn.Module, change: Callable[[Tensor], Tensor], side: str) -> Iterator[None]:
    """Let a module's input (side "in") or output ("out") be another one; of several things, the first."""

    def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    def after(module: torch.nn.Module, args: Any, output: Any) -> Any:
        several = isinstance(output, tuple | list)
        return type(output)((change(output[0]), *output[1:])) if several else change(output)

    if side == "in":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@functools.cache
def tokenizer_of_all() -> PreTrainedTokenizerFast:
    """Trained once."""
    return tiny_tokenizer()


def write_model(name: str, folder: str | Path) -> str:
    """Write one of the table's models, random, with its tokenizer; returns its folder."""
    tokenizer = tokenizer_of_all()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = config_of(name, len(tokenizer))
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_config(config)
        randomise_gains_and_biases(model)
    with without_loading_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@contextmanager
def both(name: str) -> Iterator[tuple[TransformerBridge, Hand]]:
    """The model as patchlib loads it, and by hand."""
    with tempfile.TemporaryDirectory(prefix=f"tiny-{name}-") as folder:
        write_model(name, folder)
        model = load_model(folder, device="cpu")
        model.cfg.model_name = name
        yield model, Hand(folder)


@functools.cache
def architecture(name: str) -> TransformerBridge:
    """One of the table's models as patchlib loads it. Shared by all tests: leave it as it is."""
    with tempfile.TemporaryDirectory(prefix=f"tiny-{name}-") as folder:
        return load_model(write_model(name, folder), device="cpu")
