"""Zeros and blocks: silencing by pattern, layers that keep some kernels or inputs, and what holds zeros in training."""
