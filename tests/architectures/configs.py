"""Tiny configs of as many architectures and variants as transformers and TransformerLens load, by name.

Sizes are those of tests/tiny.py: 3 layers unless a layout needs more, width 32, 4 heads. Prompts have 12 tokens, so
that a window of 6 cuts them and one of 64 does not.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
ROPE = {**SIZE, "intermediate_size": 64, "max_position_embeddings": 128}
GROUPED = {**ROPE, "num_key_value_heads": 2}
HEAD8 = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
          "n_shared_experts": 1, "n_group": 1, "topk_group": 1}  # fmt: skip
MAMBA = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 8,
         "mamba_n_groups": 1, "mamba_chunk_size": 8}  # fmt: skip
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}


def scaled_rope(kind: str, **more: Any) -> dict[str, Any]:
    """Llama with another scaling of its rotary positions."""
    return {**GROUPED, "rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LONG = {"long_factor": [4.0] * 4, "short_factor": [1.0] * 4}
BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}

TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "gpt2-layer-scaled": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128,
                                   "scale_attn_by_inverse_layer_idx": True}),
    "gpt-bigcode": ("gpt_bigcode", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "gpt-neo": ("gpt_neo", {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 128,
                            "attention_types": [[["global", "local"], 2]], "window_size": 6}),
    "gpt-neo-long-window": ("gpt_neo", {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 64,
                                        "max_position_embeddings": 128,
                                        "attention_types": [[["global", "local"], 2]]}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "rotary_dim": 4}),
    "codegen": ("codegen", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "rotary_dim": 4}),
    "openai-gpt": ("openai-gpt", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "neox": ("gpt_neox", {**ROPE, "use_parallel_residual": True}),
    "neox-sequential": ("gpt_neox", {**ROPE, "use_parallel_residual": False}),
    "pythia": ("gpt_neox", {**ROPE, "rotary_pct": 0.25, "hidden_act": "gelu"}),
    "opt": ("opt", {**SIZE, "ffn_dim": 64, "max_position_embeddings": 128, "word_embed_proj_dim": 32, "pad_token_id": 1,
                    "init_std": 0.25}),
    "opt-post-norm": ("opt", {**SIZE, "ffn_dim": 64, "max_position_embeddings": 128, "word_embed_proj_dim": 16,
                              "do_layer_norm_before": False, "pad_token_id": 1, "init_std": 0.25}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "falcon-7b": ("falcon", SIZE),
    "falcon-40b": ("falcon", {**SIZE, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-rw": ("falcon", {**SIZE, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 128}),
    "xglm": ("xglm", {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 64, "init_std": 0.25,
                      "max_position_embeddings": 128, "pad_token_id": 1}),
    "biogpt": ("biogpt", ROPE),
    "llama": ("llama", GROUPED),
    "llama-full": ("llama", ROPE),
    "llama-one-kv": ("llama", {**ROPE, "num_key_value_heads": 1}),
    "llama-biases": ("llama", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "llama-head-dim": ("llama", {**GROUPED, "head_dim": 16}),
    "llama-llama3": ("llama", scaled_rope("llama3", factor=8.0, original_max_position_embeddings=64, **BANDS)),
    "llama-linear": ("llama", scaled_rope("linear", factor=2.0)),
    "llama-dynamic": ("llama", {**scaled_rope("dynamic", factor=4.0), "max_position_embeddings": 64}),
    "llama-dynamic-short": ("llama", {**scaled_rope("dynamic", factor=4.0), "max_position_embeddings": 8}),
    "llama-yarn": ("llama", scaled_rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "mistral-window": ("mistral", {**GROUPED, "sliding_window": 6}),
    "mistral-long-window": ("mistral", {**GROUPED, "sliding_window": 64}),
    "mistral": ("mistral", {**GROUPED, "sliding_window": None}),
    "ministral3": ("ministral3", HEAD8),
    "mixtral": ("mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "mixtral-window": ("mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}),
    "qwen2": ("qwen2", GROUPED),
    "qwen2-window": ("qwen2", {**GROUPED, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen2-moe": ("qwen2_moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3": ("qwen3", HEAD8),
    "qwen3-long-window": ("qwen3", {**HEAD8, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}),
    "qwen3-moe": ("qwen3_moe", {**HEAD8, **EXPERTS}),
    "qwen3-next": ("qwen3_next", {**HEAD8, **EXPERTS, **DELTA, "num_hidden_layers": 4,
                                  "shared_expert_intermediate_size": 32}),
    "qwen3.5": ("qwen3_5_text", {**HEAD8, **DELTA, "num_hidden_layers": 4}),
    "gemma": ("gemma", HEAD8),
    "gemma2": ("gemma2", {**HEAD8, "sliding_window": 6}),
    "gemma2-long-window": ("gemma2", {**HEAD8, "sliding_window": 64}),
    "gemma3": ("gemma3_text", {**HEAD8, "sliding_window": 6, "num_hidden_layers": 6}),
    "gemma3-long-window": ("gemma3_text", {**HEAD8, "sliding_window": 64, "num_hidden_layers": 6}),
    "gemma3-bidirectional": ("gemma3_text", {**HEAD8, "sliding_window": 64, "use_bidirectional_attention": True}),
    "gemma3n": ("gemma3n_text", {**HEAD8, "vocab_size_per_layer_input": 2048, "hidden_size_per_layer_input": 8,
                                 "num_kv_shared_layers": 0, "laurel_rank": 4, "altup_num_inputs": 2,
                                 "activation_sparsity_pattern": [0.0, 0.0, 0.0], "sliding_window": 64}),
    "gemma4": ("gemma4_text", {**HEAD8, "global_head_dim": 8, "vocab_size_per_layer_input": 2048,
                               "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "sliding_window": 64}),
    "vaultgemma": ("vaultgemma", {**HEAD8, "sliding_window": 64}),
    "phi": ("phi", ROPE),
    "phi-qk-norm": ("phi", {**ROPE, "qk_layernorm": True}),
    "phi3": ("phi3", {**GROUPED, "sliding_window": None, "pad_token_id": 1}),
    "phi3-window": ("phi3", {**GROUPED, "sliding_window": 6, "pad_token_id": 1}),
    "phi3-longrope": ("phi3", {**scaled_rope("longrope", **LONG), "original_max_position_embeddings": 64,
                               "pad_token_id": 1, "sliding_window": None}),
    "phi3-longrope-beyond": ("phi3", {**scaled_rope("longrope", **LONG), "original_max_position_embeddings": 8,
                                      "pad_token_id": 1, "sliding_window": None}),
    "phimoe": ("phimoe", {**GROUPED, "num_local_experts": 4}),
    "stablelm": ("stablelm", GROUPED),
    "stablelm-parallel": ("stablelm", {**GROUPED, "use_parallel_residual": True, "qk_layernorm": True}),
    "starcoder2": ("starcoder2", {**GROUPED, "sliding_window": None}),
    "olmo": ("olmo", GROUPED),
    "olmo-clip": ("olmo", {**GROUPED, "clip_qkv": 0.5}),
    "olmo2": ("olmo2", GROUPED),
    "olmo3": ("olmo3", {**GROUPED, "sliding_window": 6}),
    "olmo3-long-window": ("olmo3", {**GROUPED, "sliding_window": 64}),
    "olmoe": ("olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "flex-olmo": ("flex_olmo", {**GROUPED, "pad_token_id": 1, "num_experts": 4, "num_experts_per_tok": 2}),
    "olmo-hybrid": ("olmo_hybrid", {**GROUPED, "num_hidden_layers": 4, "pad_token_id": 1, "linear_num_key_heads": 2,
                                    "linear_num_value_heads": 4, "linear_key_head_dim": 8,
                                    "linear_value_head_dim": 8}),
    "cohere": ("cohere", GROUPED),
    "cohere-qk-norm": ("cohere", {**GROUPED, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**GROUPED, "num_hidden_layers": 4, "sliding_window": 6}),
    "granite": ("granite", {**GROUPED, "logits_scaling": 2.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0,
                            "attention_multiplier": 0.2}),
    "granite-moe": ("granitemoe", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 2.0,
                                   "residual_multiplier": 0.5}),
    "granite-hybrid": ("granitemoehybrid", {**GROUPED, **MAMBA, "num_local_experts": 0, "num_hidden_layers": 4,
                                            "shared_intermediate_size": 64, "layer_types": [
                                                "mamba", "attention", "mamba", "attention"]}),
    "granite-hybrid-rope": ("granitemoehybrid", {**GROUPED, **MAMBA, "num_local_experts": 0, "num_hidden_layers": 4,
                                                 "position_embedding_type": "rope", "shared_intermediate_size": 64,
                                                 "layer_types": ["mamba", "attention", "mamba", "attention"]}),
    "glm": ("glm", {**HEAD8, "pad_token_id": 1}),
    "glm4": ("glm4", {**HEAD8, "pad_token_id": 1}),
    "glm4-moe": ("glm4_moe", {**HEAD8, **ROUTED, "pad_token_id": 1}),
    "nemotron": ("nemotron", HEAD8),
    "smollm3": ("smollm3", {**GROUPED, "pad_token_id": 1, "num_hidden_layers": 4}),
    "deepseek-v2": ("deepseek_v2", {**ROPE, **LATENT, **ROUTED, "q_lora_rank": 16, "topk_method": "greedy"}),
    "deepseek-v2-lite": ("deepseek_v2", {**ROPE, **LATENT, **ROUTED, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek-v3": ("deepseek_v3", {**ROPE, **LATENT, **ROUTED, "q_lora_rank": 16}),
    "youtu": ("youtu", {**ROPE, **LATENT, "q_lora_rank": 16}),
    "minicpm3": ("minicpm3", {**ROPE, **LATENT, "q_lora_rank": 16}),
    "minimax-m2": ("minimax_m2", {**HEAD8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "ernie4.5": ("ernie4_5", HEAD8),
    "ernie4.5-moe": ("ernie4_5_moe", {**GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32}),
    "hunyuan": ("hunyuan_v1_dense", HEAD8),
    "exaone4": ("exaone4", {**GROUPED, "sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "exaone4-window": ("exaone4", {**GROUPED, "num_hidden_layers": 4, "sliding_window": 6,
                                   "sliding_window_pattern": 4}),
    "helium": ("helium", HEAD8),
    "apertus": ("apertus", GROUPED),
    "arcee": ("arcee", HEAD8),
    "seed-oss": ("seed_oss", HEAD8),
    "jais2": ("jais2", GROUPED),
    "afmoe": ("afmoe", {**HEAD8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                        "num_dense_layers": 1, "sliding_window": 64}),
    "bitnet": ("bitnet", GROUPED),
    "nanochat": ("nanochat", GROUPED),
    "modernbert-decoder": ("modernbert-decoder", {**ROPE, "pad_token_id": 1}),
    "gpt-oss": ("gpt_oss", {**HEAD8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}),
    "llama4": ("llama4_text", {**HEAD8, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 64,
                               "num_hidden_layers": 4, "pad_token_id": 1}),
    "jetmoe": ("jetmoe", {"hidden_size": 32, "num_hidden_layers": 3, "num_key_value_heads": 2, "kv_channels": 8,
                          "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64,
                          "max_position_embeddings": 128}),
    "lfm2": ("lfm2", {**GROUPED, "num_hidden_layers": 4, "layer_types": [
        "conv", "full_attention", "conv", "full_attention"]}),
    "jamba": ("jamba", {**GROUPED, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
                        "num_experts": 2, "num_experts_per_tok": 1, "use_mamba_kernels": False, "mamba_d_state": 8,
                        "mamba_dt_rank": 4, "pad_token_id": 1}),
    "bamba": ("bamba", {**GROUPED, **MAMBA, "num_hidden_layers": 4, "attn_layer_indices": [1, 3],
                        "attn_rotary_emb": 4, "pad_token_id": 1}),
    "falcon-h1": ("falcon_h1", {**HEAD8, **MAMBA, "mamba_d_ssm": 64, "pad_token_id": 1}),
    "nemotron-h": ("nemotron_h", {**HEAD8, "num_hidden_layers": 4, "hybrid_override_pattern": "M*-*",
                                  "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "ssm_state_size": 8,
                                  "chunk_size": 8}),
    "zamba2": ("zamba2", {**ROPE, "num_hidden_layers": 4, "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_ngroups": 1,
                          "layer_types": ["mamba", "hybrid", "mamba", "hybrid"], "hybrid_layer_ids": [1, 3],
                          "adapter_rank": 4, "chunk_size": 8}),
    "recurrent-gemma": ("recurrent_gemma", {**GROUPED, "lru_width": 32, "attention_window_size": 64, "head_dim": 8}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}),
    "mamba2": ("mamba2", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "num_heads": 8, "head_dim": 8,
                          "n_groups": 1, "chunk_size": 8}),
    "rwkv": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 3, "attention_hidden_size": 32}),
    "t5": ("t5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}),
    "persimmon": ("persimmon", ROPE),
}  # fmt: skip
"""Name -> (transformers' model type, its settings)."""


def config_of(name: str, vocab_size: int) -> PretrainedConfig:
    """The config of one of TABLE; weights are large, so that attention is far from flat."""
    model_type, settings = TABLE[name]
    ids = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.25}
    return AutoConfig.for_model(model_type, **{**ids, **settings})
