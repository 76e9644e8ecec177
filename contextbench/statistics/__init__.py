"""Scores from counts: draws, intervals, comparisons, groups. No torch."""
