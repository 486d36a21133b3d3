"""Of many candidate plans the one with the fewest errors, found exactly: a race in which losers are given up early."""
