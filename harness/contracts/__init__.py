"""Define the types that pass between rooms, one file each."""
