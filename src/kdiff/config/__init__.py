"""Configuration, without torch: parts named in text, and the settings of training, sampling, studies and latents."""
