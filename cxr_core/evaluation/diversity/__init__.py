"""Diversity: is every synthetic image near a real one, every real one near a synthetic one, and do they repeat?"""
