"""The sink side: workers that consume events."""
