"""What builds docs/: pages that the code itself knows are written by `python -m docs.tools` and committed."""
