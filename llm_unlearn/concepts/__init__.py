"""What a model knows, in words and directions: attribution, concept banks, bottlenecks."""
