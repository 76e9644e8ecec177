"""What was run and found: schemas, files, provenance, comparability. No torch."""
