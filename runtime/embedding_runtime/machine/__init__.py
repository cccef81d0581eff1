"""The machine: CPU, cores, threads, memory, and what is kept on it between starts."""
