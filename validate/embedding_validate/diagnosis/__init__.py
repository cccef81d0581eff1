"""Finds what is wrong with a graph that failed, by trying known faults one by one."""
