"""Adapters to the training loops of other libraries; each needs its own, and nothing else imports it."""
