"""Predictions of trained models: counted, written to files, looked into."""
