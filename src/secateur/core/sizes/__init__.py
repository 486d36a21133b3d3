"""How large networks are on paper, and which widths a plan may leave."""
