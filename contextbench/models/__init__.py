"""Backbones and heads as one model: building, weights, number formats, devices."""
