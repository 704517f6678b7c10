"""Reader kit: can people tell synthetic images from real ones? A blinded page, and what its answers say."""
