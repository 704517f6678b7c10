"""Attacks by people who share a cluster: each was seen to succeed before it was made to fail."""
