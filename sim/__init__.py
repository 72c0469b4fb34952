"""Where it is computed: Trace x Hardware -> Costs -> Timeline -> Result."""
