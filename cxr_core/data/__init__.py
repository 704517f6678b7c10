"""Findings, tables, splits, prompts, images, the phantom, and the Dataset on disk."""
