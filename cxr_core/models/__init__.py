"""Model presets, Stable Diffusion folders and classifiers."""
