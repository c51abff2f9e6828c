"""The processes of a run. torchrun or accelerate launch starts them, and accelerate joins them."""

from __future__ import annotations

import datetime
import os

import torch
from accelerate import PartialState

# How long one process waits for another. The first draws pictures, hashes, judges and writes while the others wait. If one
# dies, torchrun ends them all.
PATIENCE = datetime.timedelta(days=1)


def join_processes() -> PartialState:
    """Join the processes of this run (torchrun, accelerate launch). accelerate must be told to join them on CPUs."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=launched and not (torch.cuda.is_available() or torch.xpu.is_available()), timeout=PATIENCE)
