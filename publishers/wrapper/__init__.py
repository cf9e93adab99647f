"""``trainbus run``: a command with the bus attached, and how it ended."""
