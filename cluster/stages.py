"""The stages by name, and what follows `python -m` for each."""

STAGES = ("etl", "training", "evaluation")
WORDS = {
    "preflight": ("cluster", "preflight"),
    "etl": ("etl",),
    "training": ("training",),
    "evaluation": ("evaluation",),
    "tuning": ("tuning", "--resume"),
}
