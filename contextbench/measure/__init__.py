"""What a head costs: operations, memory and time. Every number is defined in docs/measuring.md."""
