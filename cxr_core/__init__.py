"""Core library: images, prompts, models, metrics and files. Knows no scheduler and no container."""

__version__ = "0.1.0"
