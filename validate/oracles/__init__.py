"""Reference results of other simulators, row by row against ours."""
