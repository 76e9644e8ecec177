"""A comparison as jobs, and what several machines made, merged."""
