"""Weights that others trained, brought into folders of the forms that the stages take."""
