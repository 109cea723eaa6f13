"""Options that make a large backbone small enough to test."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {}
"""By expert; none for those that are small at published size."""
