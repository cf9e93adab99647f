"""ClearML without a server: every run as a session folder that clearml imports."""
