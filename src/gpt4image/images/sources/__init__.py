"""One module per kind of image source; each lists the images without decoding them."""
