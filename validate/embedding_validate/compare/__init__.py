"""The command `compare-embedding`: speed, memory and agreement, side by side."""
