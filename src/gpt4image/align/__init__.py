"""The method: projector, alignment losses, and the model that is trained with them. Depends on torch alone."""
