"""Drops from the sites: checked file by file, and appended to a packed dataset as a new revision."""
