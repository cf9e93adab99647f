"""The journal: what a training process appends to."""
