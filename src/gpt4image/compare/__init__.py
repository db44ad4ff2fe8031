"""Does text help? Arms x seeds, compared seed by seed. `records` imports no torch."""
