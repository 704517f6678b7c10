"""Calibration: are the judge's scores probabilities, on real patients and on synthetic images; and for whom."""
