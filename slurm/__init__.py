"""How a run is sent to a cluster."""
