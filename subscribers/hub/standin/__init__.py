"""A server that speaks the API of HUB v1: for the demo and for tests, since HUB itself is gone."""
