"""The result of a check."""

from typing import Any

from benchmarks.measure import print_result


class Report:
    """Values by name, and a line for each claim that does not hold.

    The result so far is printed with each of them, so that a check past its time-out has one.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.failures: list[str] = []

    def note(self, name: str, value: Any) -> None:
        """Keep a value; a float is kept to four digits."""
        self.values[name] = float(f"{value:.4g}") if isinstance(value, float) else value
        self._print()

    def require(self, holds: bool, claim: str) -> None:
        """Count a claim that does not hold as a failure."""
        if not holds:
            self.failures.append(claim)
            self._print()

    def _print(self) -> None:
        print_result(values=self.values, failures=self.failures)
