"""Plans, shards, receipts, atomic commits, attempts and the run folder."""
