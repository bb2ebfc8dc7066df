"""The algorithms: bootstrap, shard graph, drain. They see AWS and the warehouse through ports."""
