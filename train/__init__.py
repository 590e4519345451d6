"""How features become models."""
