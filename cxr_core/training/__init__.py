"""Objectives, data order, EMA and the training engine."""
