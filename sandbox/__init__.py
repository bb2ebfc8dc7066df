"""A local AWS for the demo and the tests: a server on loopback, workloads, and a comparison."""
