"""The result of a check."""

from typing import Any


class Report:
    """Values by name, and a line for each claim that does not hold."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.failures: list[str] = []

    def note(self, name: str, value: Any) -> None:
        """Keep a value; a float is kept to four digits."""
        self.values[name] = float(f"{value:.4g}") if isinstance(value, float) else value

    def require(self, holds: bool, claim: str) -> None:
        """Count a claim that does not hold as a failure."""
        if not holds:
            self.failures.append(claim)
