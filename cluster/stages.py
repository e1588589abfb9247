"""Names of the stages, and the command and options that run each."""

STAGES = ("etl", "training", "evaluation")
STAGE_COMMANDS: dict[str, tuple[str, list[str]]] = {
    "preflight": ("cluster preflight", []),
    "etl": ("etl", []),
    "training": ("training", []),
    "evaluation": ("evaluation", []),
    "tuning": ("tuning", ["--resume"]),
}
