"""What to run: settings, profiles, options of methods."""
