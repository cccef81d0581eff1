"""The machine: CPU, cores, threads, memory, and the files cached on it between starts."""
