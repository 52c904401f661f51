"""Causal intervention in transformer language models: patch an activation, see whether the behaviour follows.

``load_model`` -> a task (``IOIDataset``) -> ``sweep`` -> ``plots``; every public name is listed below with the
module that it lives in. Modules are imported when first used, so that ``patchlib --help`` need not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "models": ("DEFAULT_MODEL", "list_models", "load_model", "weights_hash"),
    "tasks": (
        "IOIDataset",
        "InductionDataset",
        "PatchingDataset",
        "PromptPairs",
        "classify_ioi_head",
        "repeated_tokens",
    ),
    "sites": ("SITES",),
    "metrics": ("METRICS",),
    "sources": ("SOURCES",),
    "sweeps": ("sweep",),
    "paths": ("direct_paths", "inputs_of", "path_patch"),
    "path_runs": ("Receiver",),
    "ablation": ("Ablation", "HeadSet"),
    "knockouts": ("backup_heads", "everywhere", "knock_out", "random_like"),
    "circuit": ("Circuit", "completeness", "faithfulness", "minimality"),
    "discovery": ("Discovery", "discover"),
    "head_roles": ("roles",),
    "heads": (
        "attention_between",
        "attention_patterns",
        "copying_scores",
        "detector_scores",
        "direct_logit_attribution",
    ),
    "composition": ("k_composition",),
    "losses": ("ablated_losses", "copy_losses", "in_context_score", "token_losses"),
    "published": ("beside_published",),
    "unpatched": ("baseline",),
    "runs": ("RunRecord", "SavedRun", "run", "save_run", "saved_run"),
    "runs.grid": ("Planned", "read_grid"),
    "runs.schedule": ("run_grid",),
    "runs.verify": ("verify",),
    "runs.collect": ("Collection", "Run", "collect"),
    "runs.report": ("write_report",),
    "lab": ("copy_notebooks",),
    "stats": ("contrast", "effect_interval", "summary_table"),
    "errors": (
        "AlignmentError",
        "ContrastWarning",
        "ExactnessError",
        "ModelError",
        "PatchlibError",
        "RunError",
        "SweepError",
        "TaskError",
    ),
    "report": (
        "create_full_report",
        "create_head_heatmap",
        "create_layer_comparison",
        "create_metric_scatter",
        "create_top_heads_bar",
    ),
    "patchers": ("ActivationCache", "ActivationPatcher", "HeadPatcher"),
    "results": (
        "HeadPatchingResult",
        "PatchingResult",
        "create_patching_heatmap",
        "print_head_results",
        "print_heatmap_ascii",
        "summarize_results",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"patchlib.{_HOME_OF[name]}"), name)
    if name in ("circuit_plots", "circuit_takeaways", "induction_plots", "plots", "stats", "takeaways", "widgets"):
        return import_module(f"patchlib.{name}")
    raise AttributeError(f"module 'patchlib' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
