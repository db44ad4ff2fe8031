"""What all other packages share: errors, files, settings, formats, records, registries."""
