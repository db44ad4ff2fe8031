"""The stages joined up: what the commands and the Python calls run."""
