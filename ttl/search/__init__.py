"""Which trials to run, what came of them, and which model to choose."""
