"""What is done, and how that is known."""
