"""From scores to a plan: which units go first, how much goes from each group, and what thinner networks cost."""
