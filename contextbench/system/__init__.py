"""What any program needs: files, locks, interrupts, the console, errors, safe text. No torch."""
