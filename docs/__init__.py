"""Pages for people; `docs.tools` writes those that the code knows."""
