"""The method: projector, losses, mixing of targets, and the model that is trained with them. Tensors in, tensors out."""
