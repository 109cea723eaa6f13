"""Options that make a large backbone small enough to test."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "tempo": {
        "config": {
            "d_model": 16, "gpt_layers": 2, "gpt2": {"n_head": 2, "vocab_size": 64},
            "stub_token_ids": {"trend": [5, 6, 7], "season": [5, 6, 8], "residual": [5, 6, 9]},
        },
    },
    "timesnet": {"layers": 1},
}  # fmt: skip
"""By expert; none for those that are small at published size."""
