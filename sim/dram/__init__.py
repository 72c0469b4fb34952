"""DRAM, command by command: parts as tables of constraints, and the engine that runs on them."""
