"""The heart: read a network, decide on paper, cut, silence, verify. No files, no printing, no training."""
