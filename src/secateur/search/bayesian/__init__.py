"""Pruning parameters by Bayesian optimisation, round after round, while the constraint cools down to the target."""
