"""Graphs that other tools wrote, judged like our own."""
