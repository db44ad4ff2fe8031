"""The method: projector, losses, mixing of targets, and the model trained with them. Tensors in, tensors out."""
