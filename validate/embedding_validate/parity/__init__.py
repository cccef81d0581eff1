"""A bundle's graphs against the reference's answers."""
