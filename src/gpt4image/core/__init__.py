"""What every other package builds on: errors, files, settings, formats, state."""
