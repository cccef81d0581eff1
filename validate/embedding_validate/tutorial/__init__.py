"""The published tutorial: its texts, its figures, and a demonstration."""
