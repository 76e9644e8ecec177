"""Models of other code bases: recognised in their files, rebuilt here with the same function."""
