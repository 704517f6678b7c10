"""The one HTML page a person reads."""
