"""What pruning takes from each layer, and how far the others can make up for it: least squares over whole units."""
