"""The base of every other package: errors, files, settings, formats, records, registries."""
