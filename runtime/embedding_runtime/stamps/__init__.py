"""What stored vectors say of themselves, so that vectors of two spaces are never mixed."""
