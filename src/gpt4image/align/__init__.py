"""The method: projector, alignment losses, and the model that is trained with them. Depends only on torch."""
