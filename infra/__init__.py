"""Running it elsewhere: a local stack to try it all, and notes for clusters."""
