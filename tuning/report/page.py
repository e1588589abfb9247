"""report.html of a sweep. Every figure stands in trials.parquet or the winner's metrics.json."""

from collections import Counter
from html import escape

from evaluation.metrics.run_metrics import RunMetrics
from evaluation.report import html
from tuning.live import figure, in_words
from tuning.report.charts import curves, importance_chart
from tuning.report.parallel_coordinates import parallel_coordinates
from tuning.sweep import Sweep
from tuning.trials import METRIC, SHOWN, Trial

LISTED = 30  # trials in the table
BY_KEY = (
    "A line is the mean over trials that finished, its band one standard deviation over trials "
    "and seeds; a dot alone is one trial. Importance is a key's share in what tells the best "
    "tenth of the trials from the others (PED-ANOVA), stopped ones with what they had reached."
)


def sweep_page(sweep: Sweep, metrics: RunMetrics) -> str:
    """The page of a sweep that has a winner, whose metrics these are."""
    trials = [sweep.records.trials[n] for n in sorted(sweep.records.trials)]
    winner = sweep.records.winner()
    assert winner
    settings = sweep.tune
    title = f"{sweep.experiment.name}: {len(trials)} trials"
    by = {"random": "drawn at random", "grid": "a grid", "optuna": "drawn by TPE"}
    how = by[settings.searcher] + (", halved by ASHA" if settings.scheduler == "asha" else "")
    return html.page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            html.paragraph(
                f"{how}; {settings.seeds} seed{'s' if settings.seeds > 1 else ''} a trial. Trials "
                f"are told apart by validation {METRIC}; the test split was ranked for the winner "
                "alone.",
                "lead",
            ),
            winner_tiles(winner, metrics, sweep.experiment.train.max_epochs, trials),
            html.section(
                "All trials",
                f'<div class="panel">{parallel_coordinates(trials)}</div>',
                "A thread a trial; the best tenth stands out.",
            ),
            html.section(
                "By key",
                html.panels(
                    [*curves(trials, settings.space), ("importance", importance_chart(trials))]
                ),
                BY_KEY,
            ),
            html.section("The best trials", trials_table(trials)),
            html.section("What next", html.commands(next_steps(sweep))),
            html.footer(f"Data {metrics.dataset}. Winner's weights {metrics.weights}."),
        ],
    )


def winner_tiles(winner: Trial, metrics: RunMetrics, max_epochs: int, trials: list[Trial]) -> str:
    test = metrics.split["test"]["all"]
    spread = f"± {winner.spread:.4f} over {len(winner.outcomes)} seeds" if winner.spread > 0 else ""
    states = Counter(trial.state for trial in trials)
    epochs = sum(trial.epochs for trial in trials)
    whole = sum(max(len(t.outcomes), 1) for t in trials) * max_epochs
    cells = [
        html.tile(f"validation {METRIC}", f"{winner.best:.4f}", spread, main=True),
        *(html.tile(f"test {n}", f"{test[n]:.4f}", "first seed") for n in reversed(SHOWN)),
        html.tile("trials", str(len(trials)), ", ".join(f"{n} {s}" for s, n in states.items())),
        html.tile("epochs", f"{epochs:,}", f"{epochs / whole:.0%} of training all to the end"),
    ]
    said = f"Trial {winner.number} is the best: {in_words(winner.values)}."
    return html.tiles(cells) + html.paragraph(said, "note")


def trials_table(trials: list[Trial]) -> str:
    ranked = sorted(trials, key=lambda t: (-t.best if t.best == t.best else 1.0, t.number))
    rows = [
        [
            str(trial.number),
            trial.state,
            trial.cause or in_words(trial.values),
            figure(trial.best),
            f"{trial.epochs:,}",
            f"{trial.seconds:,.0f}",
        ]
        for trial in ranked[:LISTED]
    ]
    styles = ["main"] + [""] * (len(rows) - 1)
    header = ["trial", "state", "values", METRIC, "epochs", "seconds"]
    return html.table(header, rows, styles, words=3)


def next_steps(sweep: Sweep) -> list[str]:
    best = f"{sweep.uri}/best.toml"
    return [
        f"python -m cluster run {best}",
        f"python -m tuning study {best} --models mdsrec --seeds 3",
    ]
