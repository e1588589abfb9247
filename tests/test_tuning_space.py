"""The values of a trial are a function of the space, the seed and the number of the trial."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsrec.config.loading import experiment_from, load_experiment, to_overrides
from mdsrec.errors import InputError
from tuning.plan import Plan
from tuning.space import finite_values, rounded_shares

CONTENT = {
    "name": "small",
    "root": "/root",
    "input": {"edition": "2018", "reviews": ["reviews.json"]},
    "features": {m: {"vectors": f"{m}.parquet"} for m in ("text", "image")},
}


def tune_config(**settings):
    return experiment_from({**CONTENT, "tune": settings}, source="test").tune


def make_plan(seed=0, **settings):
    return Plan(tune_config(**settings), seed)


def draw_all(plan):
    return [plan.draw(number, {}).values for number in range(plan.num_trials)]


def test_dotted_keys_of_toml_become_keys_of_the_space(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        'name = "a"\nroot = "root"\n[input]\nedition = "2018"\nreviews = ["reviews.json"]\n'
        "[features.text]\nvectors = 'text.parquet'\n"
        "[tune.space]\nmodel.mu.text = { loguniform = [0.1, 10] }\n"
        "'optim.lr' = { choice = [1e-3] }\n"
    )
    assert list(load_experiment(path).tune.space) == ["model.mu.text", "optim.lr"]
    laid_over = load_experiment(path, ["tune.space.model.num_neighbors.grid=[0, 5]"]).tune.space
    assert finite_values(laid_over["model.num_neighbors"]) == [0, 5]
    again = experiment_from(load_experiment(path).resolved(), source="config.json")
    assert again.tune == load_experiment(path).tune


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optim.lr": {"choise": [1]}}, "optim.lr.choise: expected values, as in { choice"),
        ({"optim.lr": {"choice": [1], "grdi": [1]}}, "unknown key tune.space.optim.lr.grdi; the"),
        ({"optim.lr": {"choice": [1], "grid": [1]}}, r"expected one of .*, found \[choice, grid\]"),
        ({"optim.lr": {"steps": 3}}, r"found \[\]"),
        ({"optim.lr": {"uniform": [2, 1]}}, r"uniform = \[2.0, 1.0\]: expected \[low, high\]"),
        ({"optim.lr": {"loguniform": [0, 1]}}, "and both above 0"),
        ({"optim.lr": {"choice": []}}, "expected 1 value at least, found 0"),
        ({"sequences.k_core": {"choice": [5]}}, "a sweep can only search the sections"),
        ({"model.name": {"choice": ["sasrec"]}}, "mdsrec study"),
        ({"train.num_workers": {"choice": [1, 2]}}, "all trials have one size"),
    ],
)
def test_a_mistake_in_the_space_is_reported_with_its_key(space, message):
    with pytest.raises(InputError, match=message):
        tune_config(space=space)


def test_each_searcher_refuses_domains_that_it_cannot_search():
    with pytest.raises(InputError, match="the grid searcher needs a list of values"):
        tune_config(searcher="grid", space={"optim.lr": {"uniform": [1, 2]}})
    with pytest.raises(InputError, match="optuna chooses values itself"):
        tune_config(searcher="optuna", space={"optim.lr": {"grid": [1, 2]}})


def test_the_grid_searcher_tries_every_combination_once():
    space = {"model.num_neighbors": {"grid": [0, 5]}, "model.num_centers": {"choice": [2, 8, 16]}}
    found = draw_all(make_plan(searcher="grid", space=space))
    assert [tuple(values.values()) for values in found] == [
        (0, 2), (0, 8), (0, 16), (5, 2), (5, 8), (5, 16),
    ]  # fmt: skip


def test_every_draw_of_the_other_keys_is_tried_with_the_whole_grid():
    space = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.num_neighbors": {"grid": [0, 5]}}
    found = draw_all(make_plan(trials=3, space=space))
    assert [values["model.num_neighbors"] for values in found] == [0, 5] * 3
    rates = [values["optim.lr"] for values in found]
    assert rates[::2] == rates[1::2] and len(set(rates)) == 3
    assert list(found[0]) == list(space)


def test_a_simplex_with_steps_is_a_grid_that_includes_its_corners():
    [domain] = tune_config(
        space={"model.rho": {"simplex": ["text", "image"], "steps": 4}}
    ).space.values()
    assert [values["text"] for values in finite_values(domain)] == [0, 0.25, 0.5, 0.75, 1]
    [domain] = tune_config(
        space={"model.rho": {"simplex": ["a", "b", "c"], "steps": 3}}
    ).space.values()
    values = finite_values(domain)
    assert len(values) == 10
    assert {tuple(v.values()) for v in values} >= {(0, 0, 1), (0, 1, 0), (1, 0, 0)}
    assert all(math.fsum(v.values()) == pytest.approx(1, abs=1e-6) for v in values)


@given(st.lists(st.floats(1e-9, 1), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_rounded_shares_sum_to_one(sizes, seed):
    shares = rounded_shares([size / math.fsum(sizes) for size in sizes])
    assert math.fsum(shares) == pytest.approx(1, abs=1e-9)
    assert min(shares) >= 0
    assert all(round(share, 6) == share for share in shares)


def test_draws_are_uniform_over_their_domains():
    space = {
        "model.mu_id": {"uniform": [2, 4]},
        "optim.lr": {"loguniform": [1e-4, 1e-2]},
        "model.num_neighbors": {"choice": [0, 5, 10]},
        "model.rho": {"simplex": ["text", "image"]},
    }
    found = draw_all(make_plan(trials=600, space=space))
    assert np.mean([v["model.mu_id"] for v in found]) == pytest.approx(3, abs=0.08)
    assert np.mean([math.log10(v["optim.lr"]) for v in found]) == pytest.approx(-3, abs=0.08)
    counts = Counter(v["model.num_neighbors"] for v in found)
    assert all(140 < counts[value] < 260 for value in (0, 5, 10))
    text = [v["model.rho"]["text"] for v in found]
    assert np.quantile(text, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.07)


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_draw_does_not_depend_on_earlier_draws_in_the_process(searcher):
    space = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.num_neighbors": {"choice": [0, 5]}}
    first, again = (
        make_plan(searcher=searcher, space=space),
        make_plan(searcher=searcher, space=space),
    )
    ended = {n: (first.draw(n, {}).params, n / 20) for n in range(15)}
    assert again.draw(15, dict(reversed(ended.items()))) == first.draw(15, ended)
    assert make_plan(seed=1, searcher=searcher, space=space).draw(15, ended) != first.draw(
        15, ended
    )


def test_tpe_draws_near_good_trials():
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    plan, ended = make_plan(searcher="optuna", space=space), {}
    for number in range(60):
        params = plan.draw(number, ended).params
        ended[number] = params, -abs(math.log10(params["optim.lr"]) + 3)
    distances = [-value for _, value in ended.values()]
    assert np.mean(distances[30:]) < 0.6 * np.mean(distances[:10])


def test_values_are_written_as_overrides_of_a_command_line():
    nested = {"model.rho": {"text": 0.25, "image": 0.75}, "optim.decay": "none", "train.x": [1]}
    assert list(to_overrides(nested)) == [
        "model.rho.text=0.25", "model.rho.image=0.75", 'optim.decay="none"', "train.x=[1]",
    ]  # fmt: skip
