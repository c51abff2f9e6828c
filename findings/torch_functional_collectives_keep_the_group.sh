#!/usr/bin/env bash
# torch 2.13.0: destroy_process_group() leaves gloo's threads running if torch.distributed.nn.functional was imported after the
# group was made.
#
# Input: one process makes a gloo group, imports that module (torch._dynamo does so, for instance when an optimiser is first
# used), and destroys the group. Then the threads of the process are counted (Linux).
# Expected: none of gloo's threads is left, as when the module is imported first.
# Seen: three are left. Ten functions of the module have `group.WORLD` as the default of an argument, which is evaluated when
# the module is imported, so that they hold the group for ever. A thread that is left can abort Python when it exits.
# What kdiff does: it imports the module before it joins other processes (`kdiff.run.processes.join_processes`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import os
import sys

import torch
import torch.distributed as distributed

if sys.argv[1] == "first":
    import torch.distributed.nn.functional
distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{sys.argv[2]}")
if sys.argv[1] == "late":
    import torch.distributed.nn.functional
distributed.barrier()
distributed.destroy_process_group()
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
print(f"imported {sys.argv[1]}: {sum('gloo' in name for name in names)} threads of gloo are left", flush=True)
os._exit(0)
PYTHON
seen=$(for when in first late; do "$folder/venv/bin/python" "$folder/case.py" "$when" "$folder/store_$when"; done)
echo "$seen"
test "$seen" = "imported first: 0 threads of gloo are left
imported late: 3 threads of gloo are left"
