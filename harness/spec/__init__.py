"""Say what to run: settings, profiles and the options of methods."""
