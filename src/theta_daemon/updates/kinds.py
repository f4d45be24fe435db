"""The names of update types, as metadata spells them: git-theta's, and one of our own."""

from __future__ import annotations

from typing import Final

DENSE: Final = "dense"
SPARSE: Final = "sparse"
LOW_RANK: Final = "low-rank"
IA3: Final = "ia3"
EXACT_SPARSE: Final = "exact-sparse"
"""Not known to git-theta."""
