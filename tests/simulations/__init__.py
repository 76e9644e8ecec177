"""What the tables of docs/statistics.md were measured with. See `__main__`."""
