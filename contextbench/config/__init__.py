"""Protocols and heads as files. No torch."""
