"""Keep what is done, and know whether it still holds."""
