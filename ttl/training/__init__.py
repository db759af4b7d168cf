"""Training one trial, and launching packs of trials under Accelerate."""
