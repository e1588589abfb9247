"""report.html of a sweep.

Every figure comes from trials.parquet or the winner's metrics.json.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from evaluation.metrics.run_metrics import RunMetrics
from evaluation.report import html
from mdsrec.command.names import spelled
from tuning.report.charts import importance_chart, metric_charts
from tuning.report.parallel_coordinates import on_its_side, parallel_coordinates, upright
from tuning.sweep import Sweep
from tuning.trials import METRIC, REPORTED, Trial, best_first, format_score, format_values

NUM_LISTED = 30  # trials in the table
SEARCHERS = {
    "random": "Values are drawn at random",
    "grid": "All points of a grid are tried",
    "optuna": "Values are drawn by TPE",
}
BY_KEY = (
    "A line is the mean over the finished trials with that value, its band one standard deviation "
    "over trials and seeds; a dot is one trial. Importance is a key's share in separating the best "
    "tenth of the trials from the others (PED-ANOVA); stopped trials count with their best epoch."
)


def sweep_page(sweep: Sweep, metrics: RunMetrics, facts: Mapping[str, str]) -> str:
    """Return the page of a sweep with a winner. `metrics` and `facts` are the winner's."""
    trials = sweep.store.in_order()
    winner = sweep.store.winner()
    assert winner
    title = f"{sweep.experiment.name}: {len(trials)} trials"
    return html.page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            html.paragraph(_lead(sweep), "lead"),
            html.definitions([("winner", metrics.name), *facts.items()], "facts"),
            winner_tiles(winner, metrics, sweep.experiment.train.max_epochs, trials),
            html.section(
                "All trials",
                all_trials(trials),
                "One line per trial. The best tenth is highlighted.",
            ),
            html.section(
                "By key",
                html.panels(
                    [
                        *metric_charts(trials, sweep.tune.space),
                        ("importance", importance_chart(trials)),
                    ]
                ),
                BY_KEY,
            ),
            html.section("Best trials", trials_table(trials, winner)),
            html.section("Next commands", html.commands(next_steps(sweep))),
            html.footer(f"Data {metrics.dataset}. Winner's weights {metrics.weights}."),
        ],
    )


def all_trials(trials: Sequence[Trial]) -> str:
    """Draw all trials, for a wide and for a narrow screen."""
    wide, narrow = (parallel_coordinates(trials, layout) for layout in (upright, on_its_side))
    drawings = f'<div class="on-wide">{wide}</div><div class="on-narrow">{narrow}</div>'
    return f'<div class="panel">{drawings}</div>' if wide else ""


def _lead(sweep: Sweep) -> str:
    settings = sweep.tune
    stopping = "; ASHA stops weak trials early" if settings.scheduler == "asha" else ""
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''} per trial"
    return (
        f"{SEARCHERS[settings.searcher]}{stopping}; {seeds}. Trials are compared by validation "
        f"{METRIC}. Only the winner is evaluated on the test split."
    )


def winner_tiles(
    winner: Trial, metrics: RunMetrics, max_epochs: int, trials: Sequence[Trial]
) -> str:
    test = metrics.split["test"]["all"]
    spread = f"± {winner.spread:.4f} over {len(winner.outcomes)} seeds" if winner.spread > 0 else ""
    states = Counter(trial.state for trial in trials)
    epochs = sum(trial.epochs for trial in trials)
    most = sum(max(len(t.outcomes), 1) for t in trials) * max_epochs
    cells = [
        html.tile(f"validation {METRIC}", f"{winner.score:.4f}", spread, main=True),
        *(html.tile(f"test {n}", f"{test[n]:.4f}", "first seed") for n in reversed(REPORTED)),
        html.tile("trials", str(len(trials)), ", ".join(f"{n} {s}" for s, n in states.items())),
        html.tile("epochs", f"{epochs:,}", f"{epochs / most:.0%} of all trials at max_epochs"),
    ]
    text = f"The best trial is number {winner.number}: {format_values(winner.values)}."
    return html.tiles(cells) + html.paragraph(text, "note")


def trials_table(trials: Sequence[Trial], winner: Trial) -> str:
    """Return a table of the best trials, with the winner highlighted."""
    shown = best_first(trials)[:NUM_LISTED]
    rows = [
        [
            str(trial.number),
            trial.state,
            trial.cause or format_values(trial.values),
            format_score(trial.score),
            f"{trial.epochs:,}",
            f"{trial.seconds:,.0f}",
        ]
        for trial in shown
    ]
    styles = ["main" if trial is winner else "" for trial in shown]
    header = ["trial", "state", "values", METRIC, "epochs", "seconds"]
    return html.table(header, rows, styles, num_left=3)


def next_steps(sweep: Sweep) -> list[str]:
    best = f"{sweep.uri}/best.toml"
    run, study = (" ".join(spelled(stage)) for stage in ("cluster run", "tuning study"))
    return [
        f"{run} {best}",
        f"{study} {best} --models mdsrec --seeds 3",
    ]
