"""Benefit: what synthetic images add where classifiers learn from them, beside or in the place of real ones."""
