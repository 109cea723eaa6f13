"""Options that make a large backbone small enough to test."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "chronos": {
        "config": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
                   "initializer_factor": 1.0},
        "sampling_rate_hz": 51.2,
    },
    "mantis": {
        "config": {"hidden_dim": 16, "num_patches": 8, "transf_depth": 2, "transf_num_heads": 2,
                   "transf_dim_head": 8, "transf_mlp_dim": 32, "hidden_dim_scalar_enc": 8},
    },
    "moment": {
        "config": {"t5_config": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2,
                                 "num_heads": 2}},
    },
    "tempo": {
        "config": {
            "d_model": 16, "gpt_layers": 2, "gpt2": {"n_head": 2, "vocab_size": 64},
            "stub_token_ids": {"trend": [5, 6, 7], "season": [5, 6, 8], "residual": [5, 6, 9]},
        },
    },
    "timesnet": {"layers": 1},
    "ecg-fm": {
        "config": {
            "conv_feature_layers": "[(8, 2, 2)] * 4",
            "encoder_embed_dim": 16,
            "encoder_layers": 2,
            "encoder_ffn_embed_dim": 32,
            "encoder_attention_heads": 2,
            "conv_pos": 16,
            "conv_pos_groups": 4,
        }
    },
    "ecgfounder": {
        "config": {
            "base_filters": 8,
            "filter_list": (8, 16, 24),
            "m_blocks_list": (2, 1, 2),
            "groups_width": 8,
            "n_classes": 5,
        }
    },
}  # fmt: skip
"""By expert; none for those that are small at published size."""
