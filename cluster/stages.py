"""Names of the stages, and the words after `python -m` that run each."""

STAGES = ("etl", "training", "evaluation")
STAGE_COMMANDS = {
    "preflight": ("cluster", "preflight"),
    "etl": ("etl",),
    "training": ("training",),
    "evaluation": ("evaluation",),
    "tuning": ("tuning", "--resume"),
}
