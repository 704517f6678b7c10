"""Memorisation: are synthetic images copies of training images, and do they tell who a patient is?"""
