"""DRAM, command by command: memory parts as constraint tables, the controller, and PIM commands in the same table."""

from __future__ import annotations

from .channels import Channels, replay_channels
from .replay import Replay, replay

__all__ = ["Channels", "Replay", "replay", "replay_channels"]
