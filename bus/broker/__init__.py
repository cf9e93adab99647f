"""A broker process of our own, for one machine."""
