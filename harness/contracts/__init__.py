"""What passes between rooms: typed, one file each."""
