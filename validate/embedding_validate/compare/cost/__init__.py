"""What a graph costs at a length, counted in its own file, and how long that should take on a device."""
