#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0: a second Accelerator in a process may train nothing, without a word.
#
# Input: one Accelerator with gradient_accumulation_steps=2 leaves `accumulate` after one micro-batch (an interrupted cell of a
# notebook, or an odd number of micro-batches). Then a new Accelerator, without accumulation, trains another model for five steps.
# Expected: five optimiser steps. The new Accelerator reports gradient_accumulation_steps 1.
# Seen: its sync_gradients is still False, which it shares with the first one, and `optimizer.step()` of the prepared optimiser
# returns without a step. The weights do not change, and nothing is raised or logged.
# What kdiff does: `kdiff.run.processes.make_accelerator` sets the shared state before it trains.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet accelerate==1.15.0 torch==2.13.0
cat > "$folder/case.py" <<'PYTHON'
import torch
from accelerate import Accelerator


def prepared(**options):
    accelerator = Accelerator(cpu=True, **options)
    layer = torch.nn.Linear(1, 1)
    return accelerator, *accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.1))


def backward_and_step(accelerator, layer, optimizer):
    accelerator.backward(layer(torch.ones(1, 1)).sum())
    optimizer.step()
    optimizer.zero_grad()


first, layer, optimizer = prepared(gradient_accumulation_steps=2)
with first.accumulate(layer):
    backward_and_step(first, layer, optimizer)

second, layer, optimizer = prepared()
before = layer.weight.detach().clone()
for _ in range(5):
    backward_and_step(second, layer, optimizer)
moved = not torch.equal(before, layer.weight)
print(f"accumulation steps {second.gradient_accumulation_steps}, sync_gradients {second.sync_gradients}, weights moved {moved}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/case.py")
echo "$seen"
test "$seen" = "accumulation steps 1, sync_gradients False, weights moved False"
