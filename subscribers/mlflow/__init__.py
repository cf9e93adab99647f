"""The mlflow sink."""
