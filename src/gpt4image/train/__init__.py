"""Training: the recipe, the loop, and runs that can be killed at any moment. Import the parts from their modules."""
