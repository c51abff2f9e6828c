"""The environment of a result: versions, machine, threads, command and date."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ["kdiff", "torch", "numpy", "accelerate", "safetensors"]
PACKAGES += ["scikit-learn", "diffusers", "torch-fidelity", "transformers"]


def describe_environment() -> dict[str, Any]:
    """Everything that a result depends on besides its configuration. Packages that are not installed have version None."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "packages": versions,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine(),
    }
