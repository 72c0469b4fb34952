"""Data: one YAML a device or price table, every number with a unit and a source. Read by `gemvane.sim.hardware`."""
