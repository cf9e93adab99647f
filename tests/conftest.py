"""Servers and helpers that every test may ask for."""

pytest_plugins = [
    "tests.fixtures.brokers",
    "tests.fixtures.mlflow",
    "tests.fixtures.postgres",
    "tests.fixtures.processes",
]
