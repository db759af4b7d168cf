"""From the chosen trial to a model in the registry, its card and the report."""
