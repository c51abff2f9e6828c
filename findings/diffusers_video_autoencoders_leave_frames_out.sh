#!/usr/bin/env bash
# diffusers 0.42.1: the autoencoders of Wan and Qwen-Image leave the last frames of a video out, without a word.
#
# Input: videos of 1 to 9 frames, encoded and decoded by AutoencoderKLWan and AutoencoderKLQwenImage with random weights. After
# the first frame, four frames become one latent, so 1, 5 and 9 frames fit and the others do not.
# Expected: an error or a warning for lengths that do not fit, or padding. WanPipeline warns of such a number of frames to be
# generated; the docstring of `encode` names no limit.
# Seen: a video of 4 frames becomes the latent of its first frame alone, and decodes to 1 frame; 8 frames decode to 5. Changing
# the frames that are left out does not change the latent. Nothing is said.
# What kdiff does: it encodes every image as a video of one frame, which fits (`kdiff.latent.kinds`, docs/howto/latents.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import diffusers
import torch

sizes = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
stages = {"dim_mult": [1, 1, 1, 1], "temperal_downsample": [False, True, True]}
for name in ("AutoencoderKLWan", "AutoencoderKLQwenImage"):
    torch.manual_seed(0)
    vae = getattr(diffusers, name)(**sizes, **stages).eval()
    with torch.no_grad():
        lengths = {}
        for frames in range(1, 10):
            latent = vae.encode(torch.rand(1, 3, frames, 16, 16)).latent_dist.mean
            lengths[frames] = vae.decode(latent).sample.shape[2]
        video = torch.rand(1, 3, 4, 16, 16)
        other = torch.cat([video[:, :, :1], 1 - video[:, :, 1:]], 2)
        same = torch.equal(vae.encode(video).latent_dist.mean, vae.encode(other).latent_dist.mean)
    print(f"{name}: frames in and out {lengths}; frames 2 to 4 do not matter: {same}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/case.py")
echo "$seen"
out="{1: 1, 2: 1, 3: 1, 4: 1, 5: 5, 6: 5, 7: 5, 8: 5, 9: 9}"
test "$seen" = "AutoencoderKLWan: frames in and out $out; frames 2 to 4 do not matter: True
AutoencoderKLQwenImage: frames in and out $out; frames 2 to 4 do not matter: True"
