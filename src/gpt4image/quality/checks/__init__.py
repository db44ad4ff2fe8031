"""Quality checks of descriptions."""
