"""The stages joined: from a source of images to descriptions, vectors, models and reports. Commands call these."""
