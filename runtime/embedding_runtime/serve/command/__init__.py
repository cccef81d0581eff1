"""Starts the service: its command line, its socket, its processes."""
