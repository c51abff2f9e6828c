"""Export a run as a diffusers pipeline. Only `pipeline` and `diffusers_model` import diffusers at their top."""
