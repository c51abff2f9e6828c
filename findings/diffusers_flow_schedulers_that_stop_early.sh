#!/usr/bin/env bash
# diffusers 0.42.1: with use_flow_sigmas=True, two schedulers stop before sigma = 0 and leave noise in the samples.
#
# Input: 20 steps of four schedulers that can integrate a flow model (prediction_type="flow_prediction"), with a model that is
# exact for data that are all 0: its velocity is z / sigma. All samples should end at 0.
# Seen: DPMSolverMultistepScheduler and UniPCMultistepScheduler append sigma = 0 and end at 0. DEISMultistepScheduler and
# SASolverScheduler repeat the last sigma, about 0.05, and end with noise of this standard deviation. Nothing is said, and neither
# has an option `final_sigmas_type`, as the other two have.
# What kdiff does: an exported pipeline looks at the sigmas after `set_timesteps` and refuses a scheduler that does not end at 0
# (docs/howto/diffusers.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.13.0 numpy scipy
cat > "$folder/case.py" <<'PYTHON'
import diffusers
import torch

for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "SASolver"):
    scheduler = getattr(diffusers, f"{name}Scheduler")(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(20)
    torch.manual_seed(0)
    z = torch.randn(100, 1, 10, 10)
    for step, t in enumerate(scheduler.timesteps):
        z = scheduler.step(z / scheduler.sigmas[step], t, z).prev_sample
    print(f"{name}: last sigma {scheduler.sigmas[-1]:.3f}, standard deviation of the samples {z.std():.3f}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/case.py")
echo "$seen"
test "$seen" = "DPMSolverMultistep: last sigma 0.000, standard deviation of the samples 0.000
UniPCMultistep: last sigma 0.000, standard deviation of the samples 0.000
DEISMultistep: last sigma 0.050, standard deviation of the samples 0.050
SASolver: last sigma 0.050, standard deviation of the samples 0.050"
