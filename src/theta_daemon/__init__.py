"""theta-daemon: versions machine-learning checkpoints in git, per parameter group."""

from __future__ import annotations

__version__ = "0.1.0"
