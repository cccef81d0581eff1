"""What is wrong with a graph that failed: known faults, tried one by one."""
