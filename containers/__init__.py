"""In what a run is executed."""
