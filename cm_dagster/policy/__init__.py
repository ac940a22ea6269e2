"""Pure rules: states and their transitions, what may go now, what counts as done."""
