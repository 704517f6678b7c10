"""The cxr command and the stages as batch jobs."""
