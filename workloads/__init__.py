"""What is computed: a model and a scenario become a Trace."""
