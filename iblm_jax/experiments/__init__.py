"""Programs that test a claim, with seeds and intervals."""
