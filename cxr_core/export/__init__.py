"""Datasets in the forms that others read: image folders, NIH's layout, DICOM; each with a card of what it is."""
