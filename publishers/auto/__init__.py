"""Hooks into frameworks without code: an import hook that children inherit by their environment."""
