"""All that is asked of one architecture."""

from __future__ import annotations

import torch

from patchlib.errors import PatchlibError
from patchlib.patching.selfcheck import fast_obstacle
from patchlib.patching.sites import get_site
from tests.architectures.heads import TOOLS, check_tool
from tests.architectures.models import both
from tests.architectures.sites import HEADS, STREAM, Finding, check_separate, check_site, check_whole_stream, gap
from tests.helpers import contrast_pairs


def findings(
    name: str,
    sites: tuple[str, ...] = (*STREAM, *HEADS),
    directions: tuple[str, ...] = ("denoise", "noise"),
) -> tuple[str, list[Finding]]:
    """The engine, or why there is none, and what came of each site and tool."""
    try:
        with both(name) as (model, hand):
            get_site(model, "resid_pre")  # says so where TransformerLens cannot run what it loads
            pairs = contrast_pairs(model, n=3, length=12, start=5)
            engine = fast_obstacle(model, 12)
            found = [Finding("logits", gap=gap(model(pairs.clean_batch()), hand.logits(pairs.clean_batch())))]
            with torch.no_grad():
                for site in sites:
                    found += [check_site(model, hand, pairs, site, way) for way in directions]
                config = hand.model.config  # layers of Gemma 4 read the tokens again, those of Zamba 2 the embeddings
                if not getattr(config, "hidden_size_per_layer_input", 0) and config.model_type != "zamba2":
                    found += [check_whole_stream(model, pairs, site) for site in STREAM[:3] if site in sites]
                with_heads = [i for i, attention in enumerate(hand.attentions) if attention is not None]
                one_by_one = [site for site in ("q", "k", "v", "pattern") if site in sites and with_heads]
                found += [check_separate(model, pairs, site, with_heads[0]) for site in one_by_one]
            found += [check_tool(tool, model, hand, pairs) for tool in TOOLS]
            return "fast" if engine is None else f"plain ({engine})", found
    except PatchlibError as error:
        return "does not load or run", [Finding("load", refusal=str(error))]
    except Exception as error:  # the table goes on with the next
        return "fails", [Finding("all", failure=f"{type(error).__name__}: {' '.join(str(error).split())}")]
