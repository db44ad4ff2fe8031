"""One module per kind of image source; each lists what the source holds without decoding it."""
