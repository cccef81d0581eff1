"""Differences, rankings, and the thresholds that they are held to."""
