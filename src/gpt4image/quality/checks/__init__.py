"""Quality of descriptions: what is the matter with them, and what they know."""
