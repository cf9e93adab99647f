"""The hub sink: Ultralytics HUB v1, and its successor Ultralytics Platform."""
