"""The faults: what is changed into what, and the tests that should find it, those that are likely to first.

A fault is one that somebody could make: an index off by one, a sign, an axis, a gain or bias that is dropped, the base
run for the other. Those that only slow down are here where a promise about cost is made.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One line made wrong.

    Attributes:
        file: From the repository's root.
        old: Text that the file has once.
        new: What it becomes.
        tests: Files or single tests, in the order in which they are run.
        reason: Why it may survive; empty where it has to be found.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    reason: str = ""

    @property
    def module(self) -> str:
        """The file's name without its ending."""
        return self.file.rpartition("/")[2].removesuffix(".py")

    def __str__(self) -> str:
        shortest = 0  # without what the two texts have in common, but for a few characters
        while shortest < min(len(self.old), len(self.new)) and self.old[shortest] == self.new[shortest]:
            shortest += 1
        start = max(0, min(shortest, len(self.old) - 34) - 6)
        return f"{self.old[start : start + 40]!r} -> {self.new[start : start + 40]!r}"


PATCHING, CIRCUITS = "patchlib/patching", "patchlib/circuits"
ENGINE = ("tests/patching/test_engine.py", "tests/patching/test_exactness.py")
COSTS, BY_HAND = "tests/patching/test_costs.py", "tests/patching/test_by_hand.py"
SWEEPS, DONORS = "tests/patching/test_sweeps.py", "tests/patching/test_donors.py"
PATHS, CHECKPOINT = "tests/patching/test_paths.py", "tests/patching/test_checkpoint.py"
EDGES, DRAWN = "tests/patching/test_edges.py", "tests/plots/test_attribution.py"
PLACEMENT = "tests/models/test_placement.py"
TRACE, SETS = "tests/patching/test_trace.py", "tests/patching/test_sets.py"
MORE_SITES = "tests/patching/test_more_sites.py"
CIRCUIT, CRITERIA = "tests/circuits/test_circuit.py", "tests/circuits/test_criteria_by_hand.py"
ATTRIBUTION, HEADS = "tests/circuits/test_attribution_by_hand.py", "tests/circuits/test_heads.py"
SAMPLE = "tests/architectures/test_sample.py"
STATS_BY_HAND = "tests/test_stats_by_hand.py"
STATISTICS = "patchlib/stats"
COMPOSITION, LOSSES, STATS = (
    "tests/circuits/test_composition.py", "tests/circuits/test_losses.py", "tests/test_stats.py",
)  # fmt: skip


def faults(file: str, tests: tuple[str, ...], *changes: tuple[str, ...]) -> list[Fault]:
    """Faults of one file that the same tests should find; a change is (old, new) or (old, new, reason)."""
    return [Fault(file, old, new, tests, *reason) for old, new, *reason in changes]


FAULTS = (
    # ---- Models in hand, and on several devices
    *faults(
        f"{PATCHING}/grid.py",
        (PLACEMENT,),
        ("mask = mask.to(device)", "mask = mask.to(model.cfg.device)"),
    ),
    *faults(
        f"{PATCHING}/engine.py",
        (PLACEMENT,),
        ("activation.device), activation.device", "activation.device), self.base_tokens.device"),
    ),
    *faults(
        f"{PATCHING}/unpatched.py",
        (PLACEMENT,),
        ("logits = logits.to(self.base_tokens.device)", "logits = logits"),
    ),
    *faults(
        f"{PATCHING}/shortcuts.py",
        (PLACEMENT,),
        ("for module, forward in before.items():", "for module, forward in ():"),
        ("arriving.to(hidden)])", "arriving])"),
    ),
    *faults(
        f"{CIRCUITS}/streams.py",
        (PLACEMENT,),
        ("layer, :, None].to(z.device)", "layer, :, None]"),
        ("read(result.to(tokens.device).float())", "read(result.float())"),
    ),
    *faults(
        "patchlib/models/in_hand.py",
        ("tests/models/test_in_hand.py", PLACEMENT),
        ("torch.nn.Parameter(weight.detach(), requires_grad=False)", "weight"),
        ("tensors | {id(buffer): buffer for buffer in model.buffers()}", "{}"),
        ("    check_as_it_is(model, ModelError)", "    pass"),
        ("    placement.check_unused()", "    pass"),
        ("        split_from(bridge, model)", "        pass"),
    ),
    *faults(
        "patchlib/models/check.py",
        ("tests/models/test_in_hand.py", PLACEMENT),
        ("_n_changes(weight) != n_changes", "False"),
        ("or torch_module._global_forward_pre_hooks", "or True"),
        ("    if len(devices) > 1:", "    if False:"),
    ),
    # ---- Sites beside those of heads and layers
    *faults(
        f"{PATCHING}/grid.py",
        (MORE_SITES,),
        ("return chosen[:, None, None] & mask[..., None]", "return mask[..., None]"),
        ("torch.arange(n_neurons(model, [layer]), device=mask.device)", "torch.arange(64, device=mask.device)"),
        ("if site.hook and layers is not None:", "if False:"),
    ),
    *faults(
        f"{PATCHING}/engine.py",
        (MORE_SITES,),
        ('if self.site.name == "embed":', "if False:"),
        ("self.base_tokens[:, start:end].repeat(n_cells, 1)", "self.base_tokens[:, :end].repeat(n_cells, 1)"),
    ),
    *faults(
        f"{PATCHING}/sites.py",
        (MORE_SITES,),
        ("if post is mlp_out or not counted[layer]:", "if not counted[layer]:"),
        ('[0 if self.name == "embed" else n_layers - 1]', "[n_layers - 1]"),
    ),
    # ---- Edges
    *faults(
        f"{PATCHING}/attribution/edge_graph.py",
        (EDGES,),
        ('reader.site == "mlp_out" and not self.parallel else n_below', 'reader.site == "mlp_out" else n_below'),
        ("n_below = 1 + reader.layer * (self.n_heads + 1)", "n_below = 1 + reader.layer * self.n_heads"),
        ("if n_read in streams and not alike", "if False and not alike"),
    ),
    *faults(
        f"{PATCHING}/attribution/edge_forwards.py",
        (EDGES,),
        ("return base + share * (", "return base + ("),
        ("return change * self._can_differ[:, self.start :, None].to(change)", "return -change"),
        ("edge.mask[:, start:, None].to(row)", "1"),
        ('edge.reader.site == "final" for edge in edges], edges, start)', "True for edge in edges], edges, start)"),
        ("== (reader_site, layer):", "!= (reader_site, layer):"),
        ("& cell.mask[:, self.start :]).any()", "& ~cell.mask[:, self.start :]).any()"),
    ),
    *faults(
        f"{PATCHING}/attribution/edge_gradients.py",
        (EDGES,),
        ("(step + RULES[rule]) / steps", "(step + RULES[rule]) / (steps + 1)"),
        ("+= point.weight * products", "+= products"),
        ("gradient.new_zeros(len(readers), *gradient.shape)", "gradient.repeat(len(readers), *[1] * gradient.ndim)"),
        ("[:, None, :, None]  # before the window", "[:, None, :, None] * 0 + 1  # before the window"),
        ("(0, 0, forwards.start, 0)", "(0, 0, 0, forwards.start)"),
        ("if not _readers_are_all(model, graph):", "if False:"),
    ),
    *faults(
        f"{PATCHING}/attribution/agreement.py",
        (DRAWN,),
        ("set(abs(pairs[kind]).nlargest(k).index)", "set(pairs[kind].nlargest(k).index)"),
        ("miss = pairs.estimated - pairs.exact", "miss = pairs.exact - pairs.estimated"),
        ("if differ or exact.metric", "if exact.metric"),
        ("abs(miss).to_numpy().argmax()", "miss.to_numpy().argmax()"),
    ),
    *faults(
        "patchlib/toys/truth.py",
        (DRAWN,),
        ("size = abs(score.sum(positions, min_count=1))", "size = score.sum(positions, min_count=1)"),
        ("mannwhitneyu(size[is_true], size[~is_true])", "mannwhitneyu(size[~is_true], size[is_true])"),
    ),
    # ---- Engine
    *faults(
        f"{PATCHING}/engine.py",
        ENGINE,
        ("int(cell.mask.any(0).nonzero()[0])", "int(cell.mask.any(0).nonzero()[-1])"),
        ("narrow(pos_axis, start - self.start,", "narrow(pos_axis, 0,"),
        ("source.to(base.device) != base", "source.to(base.device) == base"),
        ("torch.where(mask, source, by_cell)", "torch.where(mask, by_cell, source)"),
        ("branches(self._cache, start), **kwargs", "branches(self._cache, start - 1), **kwargs"),
        ("mlp is not None and hooked.isdisjoint(mlp.modules())", "mlp is not None"),
        ("self.base_tokens.repeat(n_cells, 1)", "self.base_tokens.repeat_interleave(n_cells, 0)"),
        ("given = given.repeat(n_cells, 1, 1)", "given = given.repeat_interleave(n_cells, 0)"),
        ("bisect_left(first, layer) * self.n_examples", "bisect_left(first, layer)"),
        ("here = cells[: len(by_cell)]", "here = cells[-len(by_cell) :]"),
        ("[torch.tensor(order).argsort()]", ""),
    ),
    *faults(
        f"{PATCHING}/unpatched.py",
        ENGINE,
        ("apart.cummax(1).values", "apart"),
        ("min(n_alike, self.n_pos - 1)", "min(n_alike + 1, self.n_pos - 1)"),
        ("kept[name][self.n_examples :]", "kept[name][: self.n_examples]"),
    ),
    *faults(
        f"{PATCHING}/engine.py",
        ("tests/patching/test_exactness.py",),
        (
            "return activation.copy_(torch.where(mask, source, by_cell).flatten(0, 1))",
            "return torch.where(mask, source, by_cell).flatten(0, 1)",
        ),
    ),
    *faults(
        f"{PATCHING}/engine.py",
        (COSTS,),
        ("(1 if self.fast and self.reads.last_only else self.n_pos)", "1"),
    ),
    *faults(
        f"{PATCHING}/unpatched.py",
        (COSTS,),
        ("torch.split(donors, max(1, batch_tokens // self.n_pos))", "torch.split(donors, len(donors))"),
    ),
    *faults(
        f"{PATCHING}/unpatched.py",
        (DONORS,),
        ("(total / len(donors))", "(total / self.n_examples)"),
        ("torch.zeros_like(activation)", "torch.ones_like(activation)"),
    ),
    *faults(
        f"{PATCHING}/engine.py",
        (BY_HAND,),
        ("self.base_logits[:, :start].to(logits)", "self.other_logits[:, :start].to(logits)"),
    ),
    *faults(
        f"{PATCHING}/grid.py",
        (BY_HAND, *ENGINE),
        ("cell.mask[:, positions] & (layer in cell.layers)", "cell.mask[:, positions]"),
        ("cell.head in (None, head)", "cell.head == head"),
        ("chosen[:, None, None, :] & mask[..., None]", "chosen[:, None, None, :] | mask[..., None]"),
        ("chosen[:, None, :, None] & mask[:, :, None, :]", "chosen[:, None, :, None] | mask[:, :, None, :]"),
    ),
    # ---- Shortcuts
    *faults(
        f"{PATCHING}/lean.py",
        ENGINE,
        (
            'NewGELUActivation: partial(torch.ops.aten.gelu_.default, approximate="tanh")',
            "NewGELUActivation: torch.ops.aten.gelu_.default",
        ),
        ("norm.hook_in(hidden)", "hidden"),
        (" and own.eps == norm.config.eps", ""),
    ),
    *faults(
        f"{PATCHING}/shortcuts.py",
        (COSTS, *ENGINE),
        ("None if unembed.bias is None else unembed.bias[ids]", "None"),
        ("weight = unembed.weight[ids]", "weight = unembed.weight[ids.flip(0)]"),
    ),
    *faults(
        f"{PATCHING}/shortcuts.py",
        ENGINE,
        ("forward(hidden[:, -1:].contiguous()", "forward(hidden[:, :1].contiguous()"),
        ("(0, 0, hidden.shape[1] - 1, 0)", "(0, 0, 0, hidden.shape[1] - 1)"),
        ("layer.values[:n_examples, :, :n_pos]", "layer.keys[:n_examples, :, :n_pos]"),
        ("torch.unflatten(new, 0, (-1, len(shared)))", "torch.unflatten(new, 0, (len(shared), -1)).transpose(0, 1)"),
        ('del module.__dict__["forward"]', "pass"),
    ),
    *faults(
        "patchlib/models/context.py",
        ("tests/patching/test_exactness.py::test_rotations_that_depend_on_the_prompt_s_length_are_fast_up_to_there",),
        ('scaling.get("rope_type") in ("dynamic", "longrope")', "False"),
        ("max(factors, default=1.0)", "1.0"),
        ("min(lengths, default=None)", "config.max_position_embeddings"),
    ),
    # ---- Batching, budget
    *faults(
        f"{PATCHING}/batching.py",
        (COSTS, "tests/patching/test_engine.py"),
        ("[cell for cell in cells if forwards.changes(cell)]", "list(cells)"),
        ("most = len(batch) // 2", "most = len(batch) - 1"),
        ("todo = todo[len(batch) :]", "todo = todo[len(batch) + 1 :]"),
        ("min(batch_tokens // n_tokens, most)", "batch_tokens // n_tokens"),
        ("// (4 * forwards.n_logits)", "// forwards.n_logits"),
        ("forwards.n_examples * (forwards.n_pos - start)", "forwards.n_examples * forwards.n_pos"),
        ("(cell.layers[0] - low)", "(low - cell.layers[0])"),
        ("len(batch) == size or", "len(batch) > size or"),
        ("batch, idle = [], 0", "batch = []"),
    ),
    *faults(
        f"{PATCHING}/budget.py",
        ("tests/patching/test_engine.py",),
        ('or "can\'t allocate memory" in said', ""),
    ),
    # ---- Unpatched, sweeps, grid
    *faults(
        f"{PATCHING}/batching.py",
        (COSTS, SWEEPS),
        ("batch_tokens // (2 * n_pos)", "batch_tokens // n_pos"),
    ),
    *faults(
        f"{PATCHING}/experiment.py",
        (COSTS, BY_HAND),
        ("result[base].values[:, examples] if saved", "np.nan if saved"),
    ),
    *faults(
        f"{PATCHING}/parts.py",
        (COSTS, BY_HAND),
        ("SelfCheck(start_plain, part.examples, forwards, live, idle)", "None"),
        ('logits["clean"], vocab, len', 'logits["corrupted"], vocab, len'),
    ),
    *faults(
        f"{PATCHING}/parts.py",
        ("tests/patching/test_workers.py",),
        ("(share + 1) * len(batches)", "share * len(batches)"),
        ("cell.index not in part.done", "True"),
    ),
    *faults(
        f"{PATCHING}/workers.py",
        ("tests/patching/test_workers.py",),
        ("weights_hash(model) != expected", "False"),
    ),
    *faults(
        f"{PATCHING}/grid.py",
        ("tests/patching/test_exactness.py::test_roles_patch_each_prompt_at_its_own_position",),
        ("pairs.roles[position][:, None]", "pairs.roles[position][:1, None]"),
    ),
    *faults(
        f"{PATCHING}/grid.py",
        (BY_HAND, SWEEPS, "tests/patching/test_exactness.py"),
        ("for p in self.fixed or (None,)]).any(0)", "for p in self.fixed or [None]]).all(0)"),
        ('for axis in ("head", "kv_head", "neuron")', 'for axis in ("head", "neuron")'),
        ("max(len(row) for row in pairs.clean_tokens)", "min(len(row) for row in pairs.clean_tokens)"),
        ("tuple(sorted(self.layers))", "tuple(self.layers)"),
    ),
    *faults(
        "patchlib/_util.py",
        ("tests/test_util.py",),
        ("not 0 <= i < n", "not 0 <= i <= n"),
        ("0 <= index < (n_heads or math.inf)", "0 <= index <= (n_heads or math.inf)"),
        ("elif not -n_pos <= position < n_pos:", "elif not -n_pos <= position <= n_pos:"),
    ),
    # ---- Donors, self-check, metrics, checkpoint
    *faults(
        f"{PATCHING}/donors.py",
        (DONORS,),
        ("own = (row, pairs.corrupted_tokens[i])", "own = (row,)"),
        ("own = (row, pairs.corrupted_tokens[i])", "own = (pairs.corrupted_tokens[i],)"),
    ),
    *faults(
        f"{PATCHING}/donors.py",
        (DONORS, SWEEPS),
        ("self.rows[self.donor_of[i]] for i in examples", "self.rows[self.donor_of[i]] for i in range(len(examples))"),
        ("if len(row) == base.shape[1]", "if len(row) >= base.shape[1]"),
        (
            '("corrupted", "clean") if self.direction == "denoise"',
            '("corrupted", "clean") if self.direction == "noise"',
        ),
    ),
    *faults(
        f"{PATCHING}/selfcheck.py",
        (BY_HAND, "tests/patching/test_exactness.py", SWEEPS),
        ("1e-5 if dtype in", "1e-1 if dtype in"),
        ("examples[self._row[0]]", "examples[0]"),
        ("forwards.base_logits[self._row]", "forwards.other_logits[self._row]"),
        (" + pick(idle, min(1, len(idle)))", ""),
        ("if not gap <= float_noise(model, base):", "if False:"),
    ),
    *faults(
        f"{PATCHING}/probes.py",
        (BY_HAND, SAMPLE),
        ("same = torch.equal(moved, model(tokens))", "same = False"),
        ("activation.select(head_axis, 0).mul_(-2)", "activation"),
        ("return not bool(logits.isfinite().all()) or alike(others, logits)", "return True"),
    ),
    *faults(
        f"{PATCHING}/head_values.py",
        ("tests/patching/test_head_values.py",),
        ("source - values, 0", "source, 0"),
        (
            'mixed(seen["pattern"][..., -change.shape[1] :], change)',
            'mixed(seen["pattern"][..., : change.shape[1]], change)',
        ),
    ),
    *faults(
        f"{PATCHING}/unpatched.py",
        (SAMPLE,),
        ('prompts.source == "other" and is_causal(model)', 'prompts.source == "other"'),
    ),
    *faults(
        f"{PATCHING}/sites.py",
        (BY_HAND, SAMPLE),
        ("return len(shape) == len(wanted) and all(", "return bool(shape) or all("),
        ('2 if self.layout.split()[1] == "head" else 1', "1"),
    ),
    *faults(
        f"{PATCHING}/metrics.py",
        (BY_HAND, SWEEPS),
        ("_log_sum(logits, answers[:, 0]) - _log_sum", "_log_sum(logits, answers[:, 0]) + _log_sum"),
        ("_pick(probs, ids) if", "_pick(logits, ids) if"),
        ("_prob(logits, answers[:, 0]) - _prob", "_prob(logits, answers[:, 0]) + _prob"),
        ("_members(probs, ids, 0).sum(-1)", "_members(probs, ids, 0).mean(-1)"),
        ("masked_fill(ids == NO_ID, nothing)", "masked_fill(ids == NO_ID, 0)"),
        ("clean - logits.log_softmax(-1))).sum(-1)", "clean - logits.log_softmax(-1))).mean(-1)"),
        ("(logit_diff(logits, answers, clean_logits) > 0)", "(logit_diff(logits, answers, clean_logits) >= 0)"),
    ),
    *faults(
        f"{PATCHING}/metrics.py",
        (BY_HAND, SWEEPS, "tests/patching/test_exactness.py"),
        ("self.clean_logits = clean_logits[:, -1]", "self.clean_logits = clean_logits[:, 0]"),
        ("torch.unique(ids[ids != NO_ID])", "torch.unique(ids[:, 0])"),
        ("metric(logits[:, :, -1], self.answers", "metric(logits[:, :, 0], self.answers"),
    ),
    *faults(
        f"{PATCHING}/metrics.py",
        (LOSSES,),
        ("tokens[..., 1:].flatten()", "tokens[..., :-1].flatten()"),
    ),
    *faults(
        f"{PATCHING}/checkpoint.py",
        (BY_HAND, CHECKPOINT),
        ("table[:, c, e]", "table[:, -c, e]"),
        ("(*pairs.clean_tokens, *pairs.corrupted_tokens)", "pairs.clean_tokens"),
        ("pairs.answers.tolist(), roles, many]", "roles, many]"),
        ("_hash([[row.tolist() for row in donors.rows], donors.donor_of])", "_hash([donors.donor_of])"),
        ('identity(pairs.compute_metric, "compute_metric")', '""'),
        ("_hash([self._seal, str(key)", "_hash([str(key)"),
    ),
    *faults(
        f"{PATCHING}/identity.py",
        (CHECKPOINT,),
        ("yield self.digest(code.co_consts)", "yield b''"),
        ("repr((code.co_names, ", "repr(("),
        ("(function.__defaults__, function.__kwdefaults__, vars(function))", "(function.__kwdefaults__,)"),
        ("yield from self._used(content, attributes)", "pass"),
        ("yield from self._used(function.__globals__[name], attributes)", "pass"),
    ),
    # ---- Paths
    *faults(
        f"{PATCHING}/receivers.py",
        (BY_HAND, PATHS),
        ("{(i, h // group) for i, h in layer_heads}", "{(i, h % group) for i, h in layer_heads}"),
        ("[:, :, receiver.head] |= mask", "[:, :, receiver.head] = mask"),
    ),
    *faults(
        f"{PATCHING}/path_engine.py",
        (BY_HAND, COSTS, PATHS),
        ("max((layer for _, layer in receivers)", "min((layer for _, layer in receivers)"),
        ("for mask in receivers.values()]).any(0)", "for mask in receivers.values()]).all(0)"),
        ("first[: self.n_examples].clone()", "first[self.n_examples :].clone()"),
        ("range(lowest, min(self._highest + 1, n_layers))", "range(lowest + 1, min(self._highest + 1, n_layers))"),
        ("torch.where(mask, source, base)", "torch.where(mask, base, source)"),
        ("self._receivers[key][:, start:end, :, None]", "self._receivers[key][:, : end - start, :, None]"),
        ("mask.to(activation.device), arrived[key], heard", "mask.to(activation.device), heard, arrived[key]"),
        ("first_layer = min(layer for _, layer in reached)", "first_layer = max(layer for _, layer in reached)"),
        (
            "replace(cell, layers=below, mask=cell.mask & self._arrival)",
            "replace(cell, mask=cell.mask & self._arrival)",
        ),
    ),
    # ---- Ablation
    *faults(
        f"{CIRCUITS}/circuit.py",
        (CIRCUIT,),
        ("return named if self.keep else ~named", "return ~named if self.keep else named"),
        ("named[:, :, layer, head] |= position_mask", "named[:, :, layer, head] = position_mask"),
    ),
    *faults(
        f"{CIRCUITS}/ablation.py",
        (CIRCUIT, LOSSES),
        ("torch.zeros(lengths[i], *size)", "torch.ones(lengths[i], *size)"),
        ("torch.stack([reference.clean_tokens[j]", "torch.stack([pairs.clean_tokens[j]"),
        ("[other.mean(0), ", "[other.mean((0, 1), keepdim=True)[0], "),
        ("np.std(folds, axis=0, ddof=1) / np.sqrt(len(folds))", "np.std(folds, axis=0, ddof=1)"),
        ("of_all[[of_kind.index(j) for j in numbers]]", "of_all"),
    ),
    *faults(
        f"{CIRCUITS}/reference.py",
        (CIRCUIT, "tests/circuits/test_edge_circuits.py"),
        ("bool(pairs.groups and reference.groups)", "False"),
        (
            "draw.choice(numbers) for numbers in self.of_prompt]",
            "draw.choice(numbers) for numbers in self.of_prompt[::-1]]",
        ),
        ("own = ids(clean), ids(corrupted)", "own = (ids(clean),)"),
        ("as_pairs(model, task).reversed()", "as_pairs(model, task)"),
    ),
    *faults(
        f"{CIRCUITS}/streams.py",
        (CRITERIA, CIRCUIT),
        (
            "torch.where(keeps, z_of_sets, replacement[:, :, layer].to(z.device))",
            "torch.where(keeps, replacement[:, :, layer], z_of_sets)",
        ),
        ("if not kept[:, :, :, layer].all()", "if not kept[:, :, :, layer].any()"),
        ("np.unique(entering[start + 1], return_index=True)", "np.unique(entering[start], return_index=True)"),
        ("return streams[entering[-1]]", "return streams[np.sort(entering[-1])]"),
        ("zip(entering[-1].tolist(), ", "zip([0] * len(kept), "),
    ),
    *faults(
        f"{PATCHING}/unpatched.py",
        (CRITERIA, CIRCUIT),
        ("stream[:, -1:].contiguous()", "stream[:, :1].contiguous()"),
    ),
    *faults(
        f"{CIRCUITS}/ablation.py",
        (CRITERIA, CIRCUIT),
        ("whole = [HeadSet({}, keep=False)]", "whole = [HeadSet({}, keep=True)]"),
        (
            "min(self._batch_tokens, default_logit_bytes(self.model) // (4 * int(self.model.cfg.d_vocab)))",
            "self._batch_tokens",
        ),
    ),
    # ---- Circuits
    *faults(
        f"{CIRCUITS}/circuit.py",
        (CIRCUIT,),
        ("if head not in gone]", "if head in gone]"),
        ("listed_positions(self.positions.get(name)))", "(None,))"),
    ),
    *faults(
        f"{CIRCUITS}/criteria.py",
        (CRITERIA,),
        ("ratio_interval(values[0], values[1],", "ratio_interval(values[1], values[0],"),
        ("values[1], clusters=ablation.pairs.clusters)", "values[1])"),
        ("(kept - floor) / (whole - floor)", "kept / (whole - floor)"),
        ("HeadSet(circuit.head_positions(heads), False)", "HeadSet(circuit.head_positions(heads), True)"),
        (
            "np.abs(scores_of_grown[:, 0] - scores_of_grown[:, 1]).argmax()",
            "(scores_of_grown[:, 0] - scores_of_grown[:, 1]).argmax()",
        ),
        ("table.without_head - table.with_head", "table.with_head - table.without_head"),
        ("(table.change / whole).abs()", "(table.change / table.with_head).abs()"),
        ("frozenset(of_k) - {head}", "frozenset(of_k)"),
    ),
    *faults(
        f"{CIRCUITS}/knockouts.py",
        (CRITERIA, CIRCUIT),
        ("_changes(values - values[0],", "_changes(values[0] - values,"),
        ("mean_interval(change, clusters=clusters)", "mean_interval(change)"),
        ("(after - before).values", "(before - after).values"),
        ("(layer, h) not in taken", "(layer, h) not in heads or True"),
    ),
    *faults(
        f"{CIRCUITS}/knockouts.py",
        (LOSSES,),
        ("first_copy_change=first - first[0]", "first_copy_change=first"),
        ("np.stack([of_set.second_copy.values", "np.stack([of_set.first_copy.values"),
    ),
    # ---- Heads, composition
    *faults(
        f"{CIRCUITS}/heads.py",
        (ATTRIBUTION, HEADS),
        ("* (right - wrong)", "* (right + wrong)"),
        ("factors = torch.where(raw == capped, 1, capped / raw)", "factors = torch.ones_like(raw)"),
        ("behind(written.float())", "written.float()"),
    ),
    *faults(
        f"{CIRCUITS}/copying.py",
        (HEADS, ATTRIBUTION),
        ("head * values.shape[2] // n_heads", "head % values.shape[2]"),
        ("_same)(sign * written)", "_same)(written)"),
        ("(n_above < top_k)", "(n_above <= top_k)"),
        ("rows[torch.arange(len(chosen)), positions[chosen]] = ids[chosen].cpu()", "pass"),
        ("stream[torch.arange(len(chosen)), positions[chosen]]", "stream[torch.arange(len(chosen)), -1]"),
    ),
    *faults(
        f"{CIRCUITS}/writing.py",
        (ATTRIBUTION, COMPOSITION, SAMPLE),
        ("gain, bias = (plus - minus) / 2 * signs[0, 0]", "gain, bias = torch.ones_like(plus)"),
        ("if self.centred else written", "if False else written"),
        (
            "through, wanted = weights.scaled(entering), leaving - weights.bias",
            "through, wanted = weights.scaled(entering), leaving",
        ),
        ("activation[:, -1].detach()", "activation[:, -2:][:, 0].detach()"),
        ("return made if bias is None else made + bias", "return made"),
        ("return alike(after - before, change)", "return True"),
    ),
    *faults(
        f"{CIRCUITS}/attention.py",
        (HEADS,),
        ('"induction": seq_len - 1', '"induction": seq_len + 1'),
        ("[..., int(bos) :]", "[..., 0:]"),
        ("pattern.movedim(1, -1)[index]", "pattern.movedim(1, -1).transpose(1, 2)[index]"),
    ),
    *faults(
        f"{CIRCUITS}/composition.py",
        (COMPOSITION, ATTRIBUTION),
        ("values = before[:, None] * block.attn.W_V.float()", "values = block.attn.W_V.float()"),
        ("block.attn.W_O.float() * behind", "block.attn.W_O.float()"),
        ("keys = scale * attn.W_K", "keys = attn.W_K"),
        ("(scale * attn.W_Q[head].float()", "(attn.W_Q[head].float()"),
        ("values.repeat_interleave(n_heads // len(values), dim=0)", "values.repeat(n_heads // len(values), 1, 1)"),
        ("head * len(attn.W_K) // int(model.cfg.n_heads)", "head % len(attn.W_K)"),
        ("rank(ascending=False)", "rank(ascending=True)"),
    ),
    # ---- Losses
    *faults(
        f"{CIRCUITS}/losses.py",
        (LOSSES, CRITERIA),
        ("slice(copy + 1, None)", "slice(copy, None)"),
        ('"gain": first - second', '"gain": second - first'),
        (
            "losses.sel(pos=late, drop=True) - losses.sel(pos=early, drop=True)",
            "losses.sel(pos=early, drop=True) - losses.sel(pos=late, drop=True)",
        ),
        ("default_logit_bytes(model) // (4 * int(model.cfg.d_vocab))", "default_logit_bytes(model)"),
    ),
    # ---- Statistics
    *faults(
        f"{STATISTICS}/results.py",
        (STATS,),
        ('if result.attrs["direction"] == "noise":', 'if result.attrs["direction"] == "denoise":'),
        ("return result.patched - base, other - base", "return result.patched - other, other - base"),
        ('result["cluster"].values if "cluster" in result.coords', 'None if "cluster" in result.coords'),
    ),
    *faults(
        f"{STATISTICS}/effects.py",
        (STATS,),
        (
            'ratio: xr.DataArray = moved.mean("example") / possible.mean("example")',
            'ratio = (moved / possible).mean("example")',
        ),
        ("distance.where(moved.notnull())", "distance"),
    ),
    *faults(
        f"{STATISTICS}/contrasts.py",
        (STATS,),
        ("ddof=1", "ddof=0"),
        ("1e-4 if row.n > 2 else MIN_CONTRAST_OF_ONE", "0 if row.n > 2 else MIN_CONTRAST_OF_ONE"),
        ("row.against <= MOST_AGAINST", "row.against <= 0.5"),
        ("has_interval | (n < 3)", "has_interval | True"),
        ("row.clean <= GUESSING", "row.corrupted <= GUESSING"),
        ("row.difference < 0 and row.is_precise", "row.difference < 0 or row.is_precise"),
        ("(by_prompt != 0).sum(axis=1)", "np.full(len(by_prompt), n)"),
        ("+ np.arange(20)", "+ np.arange(1)"),
    ),
    *faults(
        f"{STATISTICS}/intervals.py",
        (STATS_BY_HAND, STATS),
        ("len(different) < MIN_CLUSTERS", "len(different) < 2"),
        ("np.sqrt(1 - members.mean(0)) * len(members)", "np.float64(len(members))"),
        ("across.sum() ** 2 - (across**2).sum()", "across.sum() ** 2"),
        ("(2 * quantile**2 + 1)", "(2 * quantile**2 - 1)"),
        ("np.sqrt(n * (n - 1)) / (n - 2)", "1"),
        ("TIMES_SEEN * unbiased", "unbiased"),
        ("np.maximum(-tail, 0)", "-tail"),
        ("errors * np.sign(mean_below)[:, None], quantile", "errors, quantile"),
        ("room > 1e-12 * mean_below**2", "room != 0"),
        ("np.where(is_point, ratio, np.where(is_bounded, end, np.nan))", "np.where(is_bounded, end, np.nan)"),
        ("middle = -(quantile**2) * covariance", "middle = quantile**2 * covariance"),
    ),
    *faults(
        f"{STATISTICS}/intervals.py",
        (CRITERIA, CIRCUIT),
        ("ratio_intervals(above[None], below[None]", "ratio_intervals(below[None], above[None]"),
        ("ratio_intervals(values, np.ones_like(values)", "ratio_intervals(values, 2 * np.ones_like(values)"),
    ),
    *faults(
        f"{STATISTICS}/tables.py",
        (STATS,),
        ("clusters[prompts]", "clusters[: prompts.sum()][::-1]"),
        ("cluster_members(clusters_of(result), n)", "np.eye(n)"),
        ("flat.isnan().any(-1)", "flat.isnan().all(-1)"),
        ("false_discovery_control(table.p_value[tested])", "table.p_value[tested]"),
        ("key=abs, ascending=False", "ascending=False"),
        ("effect_interval(result, confidence=confidence)", "effect_interval(result)"),
    ),
    # ---- Graphs of edges, and toys
    *faults(
        f"{CIRCUITS}/exchange.py",
        ("tests/circuits/test_exchange.py",),
        ("* (-1 if", "* (1 if"),
        ('get("direction") == "noise"', 'get("direction") == "denoise"'),
        ("no_position & ~no_position.all(0)", "no_position"),
        (".all(-1)  # [edge]", ".any(-1)  # [edge]"),
        ("senders & (receivers", "senders | (receivers"),
        ("math.fsum(parts)", "sum(parts)"),
        ("in_graph.values[cells[name]] |=", "in_graph.values[cells[name]] ="),
        ("if edge.is_last else share", "if False else share"),
        ("if said != shape", "if said.n_layers != shape.n_layers"),
    ),
    *faults(
        f"{CIRCUITS}/graph_form.py",
        ("tests/circuits/test_exchange.py",),
        ('head if site == "q" else head //', 'head if site != "q" else head //'),
        ("if graph.parallel else", "if not graph.parallel else"),
        ("head // graph.group)", "head % graph.group)"),
        ("== graph.group - 1", "== 0"),
        ("isinstance(value, bool) or not abs(value)", "not abs(value)"),
    ),
    *faults(
        "patchlib/toys/heads.py",
        ("tests/test_toys.py",),
        ("k=read(POS, shift=1)", "k=read(POS, shift=2)"),
        ("2 * read([POS[0]], shift=1)", "read([POS[0]], shift=1)"),
    ),
    *faults(
        "patchlib/toys/gates.py",
        ("tests/test_toys.py",),
        ("[(-1.25, 1.0)]", "[(-0.25, 1.0)]"),
        ("(-0.75, -1.0)", "(-1.75, -1.0)"),
    ),
    *faults(
        f"{PATCHING}/attribution/gradients.py",
        ("tests/patching/test_attribution.py",),
        ("leaf = (base + share * (source - base) if share else base)", "leaf = base"),
        ("if layer in layers else gradient", "if layer not in layers else gradient"),
        ("product.sum(-1).transpose(-1, -2)", "product.sum(-2).transpose(-1, -2)"),
        (
            "torch.nn.functional.pad(scores, (0, 0, self.start, 0))",
            "torch.nn.functional.pad(scores, (0, 0, 0, self.start))",
        ),
    ),
    *faults(
        f"{PATCHING}/attribution/scored.py",
        ("tests/patching/test_attribution.py",),
        ('step + (0.5 if self.rule == "midpoint" else 0)', "step"),
        ("gradient / len(self._how.shares)", "gradient"),
        ("n_left = max(1, n_layers - 1)", "n_left = n_layers"),
        ("np.sign(of_grid) * size", "size"),
        ("[not mask.any() for mask in masks]] = torch.nan", "[not mask.any() for mask in masks]] = 0"),
    ),
    *faults(
        f"{PATCHING}/metrics.py",
        ("tests/patching/test_answers.py",),
        ("answers[:, 0]) - _prob(", "answers[:, 0]) + _prob("),
        ("masked_fill(ids == NO_ID, nothing)", "masked_fill(ids == NO_ID, 1)"),
        ("torch.where(answers == NO_ID, NO_ID, torch", "torch.where(answers == NO_ID, 0, torch"),
    ),
    *faults(
        f"{PATCHING}/sequences.py",
        ("tests/patching/test_answers.py",),
        (">= ends[:, None]", "> ends[:, None]"),
        ("np.exp(right) - np.exp(wrong)", "np.exp(right - wrong)"),
        ("for which in (0, 1):", "for which in (1, 0):"),
    ),
    *faults(
        f"{PATCHING}/grid.py",
        ("tests/tasks/test_spans.py",),
        ('pairs.roles["END"][:, None] + 1 + position', 'pairs.roles["END"][:, None] + position'),
        ("mask[i, list(indices)] = True", "mask[:, list(indices)] = True"),
    ),
    *faults(
        "patchlib/tasks/spans.py",
        ("tests/tasks/test_spans.py",),
        ("begin < end and start < stop", "begin <= end and start <= stop"),
        ("span.occurrence or 0", "0"),
    ),
    *faults(
        "patchlib/tasks/files/rows.py",
        ("tests/tasks/test_files.py",),
        ("rng.randrange(count[0])", "rng.randrange(count[0] + limit)"),
    ),
    *faults(
        "patchlib/tasks/years.py",
        ("tests/tasks/test_field.py",),
        ("tens[year // 10 + 1 :]", "tens[year // 10 :]"),
    ),
    *faults(
        f"{PATCHING}/attribution/attention.py",
        ("tests/patching/test_attribution.py",),
        ("torch.where(here.to(activation.device), source, activation)", "source"),
        ("(n_keys, -1)", "(-1, n_keys)"),
    ),
    *faults(
        f"{PATCHING}/attribution/checked.py",
        ("tests/patching/test_attribution.py",),
        ("np.argsort(-size, axis=None)", "np.argsort(size, axis=None)"),
    ),
    *faults(
        f"{PATCHING}/attribution/prefilter.py",
        ("tests/patching/test_attribution.py",),
        ("(abs(effects) + margin < least)", "(effects + margin < least)"),
    ),
    *faults(
        f"{PATCHING}/attribution/path_gradients.py",
        ("tests/patching/test_path_estimates.py",),
        ("return leaves[layer].clone()", "return leaves[layer].detach()"),
        ("torch.where(masks[key].to(activation.device), leaves[key], activation)", "leaves[key]"),
        ("(source.to(base.device) - base)", "source.to(base.device)"),
    ),
    *faults(
        f"{CIRCUITS}/edge_circuits.py",
        ("tests/circuits/test_edge_circuits.py",),
        ("kept & from_embed[:, None] & to_logits", "kept & to_logits"),
        ("[from_embed[:node]].any()", ".any()"),
        ("if kept[node, to_logits].any()", "if kept[node].any()"),
        ("if further not in reached:", "if False:"),
    ),
    *faults(
        f"{CIRCUITS}/edge_ablation.py",
        ("tests/circuits/test_edge_circuits.py",),
        ('and self.source == "mean" else None', "and False else None"),
        ("drawn[i] for i in examples", "drawn[0] for i in examples"),
        ("edges.tobytes(): edges for", "edges.sum().tobytes(): edges for"),
    ),
    *faults(
        f"{CIRCUITS}/cut_forwards.py",
        ("tests/circuits/test_edge_circuits.py",),
        ("made if bias is None else made + bias[reader.head]", "made"),
        ("(exists & ~kept).any(1)", "(~kept).all(1)"),
        ("by_set[rows] - source if", "by_set[rows] if"),
        ("floor + share.view", "share.view"),
        ("+ self.difference(sender)", "- self.difference(sender)"),
        ("torch.searchsorted(self.live_sets(layer), sets)", "torch.zeros_like(sets)"),
        ('("ln2", "ln1")', '("ln2",)'),
        ("by_set[none] = self._forwards.floor", "self._forwards.floor"),
        ("self._none[:, number] & live", "self._none[:, number]"),
    ),
    *faults(
        f"{CIRCUITS}/curves.py",
        ("tests/circuits/test_edge_circuits.py",),
        ("abs(1 - faithfulness)", "1 - faithfulness"),
        ("(metric - floor).mean() / (whole - floor).mean()", "metric.mean() / whole.mean()"),
    ),
    # ---- Noise, windows, sets, transplants, subspaces
    *faults(
        f"{PATCHING}/noise.py",
        (TRACE,),
        ("self.scale * self._drawn(prompt, draw)", "self._drawn(prompt, draw)"),
        ('derive_generator(self.seed, "noise", prompt, draw)', 'derive_generator(self.seed, "noise", prompt)'),
        ("example // self.draws % len(self.spans), example", "example // self.draws, example"),
        ("embedded = seen[0].repeat_interleave(times, dim=0)", "embedded = seen[0]"),
    ),
    *faults(
        f"{PATCHING}/severed.py",
        (TRACE,),
        ("layer >= min(grid.layers)", "layer > min(grid.layers)"),
        ("base = self._window(self._base[name], start)", "base = self._window(self._source[name], start)"),
    ),
    *faults(
        f"{PATCHING}/trace.py",
        (TRACE,),
        ("0 <= other - (layer - window // 2) < window", "0 <= other - layer < window"),
        ("reshape(*values.shape[:-1], n, draws)", "reshape(*values.shape[:-1], draws, n).swapaxes(-1, -2)"),
    ),
    *faults(
        f"{PATCHING}/set_forwards.py",
        (SETS,),
        ("of == site and layer in part.layers", "layer in part.layers"),
        ("return torch.stack(whole).any(0)", "return torch.stack(whole).all(0)"),
        ("tuple(sorted({member.layer for member in members}))", "tuple({members[0].layer})"),
    ),
    *faults(
        f"{PATCHING}/sets.py",
        (SETS,),
        ("together - alone[first] - alone[second]", "together - alone[first]"),
        ("1 - (1 - confidence) / len(both)", "confidence"),
        ("(0 if moved is None else moved)", "0"),
    ),
    *faults(
        f"{PATCHING}/transplant.py",
        ("tests/patching/test_transplant.py",),
        ("if target_layer == layer:", "if source_layer == layer:"),
        ("(log_probs[0] - log_probs[1:])", "(log_probs[1:] - log_probs[0])"),
        ("states[layer] = activation[0, position].clone()", "states[layer] = activation[0, -1].clone()"),
    ),
    *faults(
        f"{PATCHING}/subspaces.py",
        ("tests/patching/test_subspaces.py",),
        ("step, base, theirs, logits_of", "step, base, own, logits_of"),
    ),
    *faults(
        f"{STATISTICS}/differences.py",
        ("tests/plots/test_traces.py",),
        ("(moved - ratio * possible) / possible", "moved / possible"),
        ("1 - (1 - confidence) / int(whole.sum())", "confidence"),
    ),
)
