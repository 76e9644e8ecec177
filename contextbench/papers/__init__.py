"""What papers print, and the ablations that repeat it. No torch."""
