"""What was run and found: runs, counts, profiles, provenance, comparability. No torch."""
