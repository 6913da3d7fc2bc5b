"""The generator of the small world, its models, and their measurements."""
