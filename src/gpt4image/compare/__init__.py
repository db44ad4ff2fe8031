"""Did the text help? Arms x seeds, paired seed by seed. Import `records` alone where torch is not wanted."""
