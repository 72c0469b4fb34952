"""Many points of a design space: the folder that keeps them, who simulates them, sweeps and searches."""
