"""A sweep: many synthetic Datasets, of checkpoints and guidance scales, beside one set of validation patients."""
