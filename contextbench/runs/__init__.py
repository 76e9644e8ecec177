"""From a cell to a comparison, and the use of trained runs."""
