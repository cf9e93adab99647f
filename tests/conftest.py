"""Servers and helpers that every test may ask for."""

# A fixture file that others import comes before them: pytest rewrites it before it is imported.
pytest_plugins = [
    "tests.fixtures.processes",
    "tests.fixtures.blocking",
    "tests.fixtures.brokers",
    "tests.fixtures.clearml.fixture",
    "tests.fixtures.commands",
    "tests.fixtures.hub",
    "tests.fixtures.mlflow",
    "tests.fixtures.postgres",
    "tests.fixtures.spool",
    "tests.fixtures.trainers",
    "tests.fixtures.ultralytics",
    "tests.fixtures.yoloroad",
]
