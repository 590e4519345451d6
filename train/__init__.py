"""How features become models: retrieval and grounding systems, trained from a feature store."""


class TrainError(Exception):
    """What keeps a run from going on, and what to do about it."""

    exit_code = 1


class RecipeError(TrainError):
    """A recipe that cannot be followed; the message names the key and what it may be."""

    exit_code = 2
