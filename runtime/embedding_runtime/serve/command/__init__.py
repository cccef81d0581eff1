"""How the service is started: its command line, its socket, its processes."""
