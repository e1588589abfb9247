"""Names of the ranked channels, and a sentence on each."""

from collections.abc import Mapping

from evaluation.metrics.run_metrics import BASELINES, ITEMKNN, POPULARITY, RunMetrics

NAMES = {"all": "all channels", "fused": "fused", POPULARITY: "popularity", ITEMKNN: "ItemKNN"}
SENTENCES = {
    "all": "The whole score, which recommendations use: the weighted sum of the channels below",
    "network": "The trained model with its own weights, without memory and seen.",
    "fused": "Item ids and all modalities of the model together, in one vector.",
    "memory": "Counts of which items followed the user's last events in the training histories of "
    "all users; not trained.",
    "seen": "No ranking: its weight is added to the score of every item that the user had before, "
    "so below 0 it moves them down.",
    POPULARITY: "Baseline: items by their number of training events, the same for every user.",
    ITEMKNN: "Baseline: items by how often they co-occur with the user's items in training "
    "histories.",
}


def channel_name(channel: str) -> str:
    """Return the channel's name as pages show it."""
    return NAMES.get(channel, f"{channel} only")


def channel_sentences(metrics: RunMetrics) -> list[tuple[str, str]]:
    """Return (name, sentence) of each ranked channel, and of `seen` if the score has it.

    The sentence of a channel with a weight in the whole score ends with the weight.
    """
    ranked, weights = metrics.split["test"], metrics.channel_weights
    own, baselines = (
        [name for name in ranked if (name in BASELINES) == are] for are in (False, True)
    )
    channels = [*own, *(["seen"] if "seen" in weights else []), *baselines]
    of_model = [name for name in weights if name not in ("memory", "seen")]
    shown = weights if len(weights) > 1 else {}
    return [
        (
            channel if channel == "seen" else channel_name(channel),
            _sentence(channel, of_model, "memory" in shown) + _weight_text(shown, channel),
        )
        for channel in channels
    ]


def _sentence(channel: str, of_model: list[str], chosen: bool) -> str:
    """Return what a channel is. `chosen` says that weights were chosen on validation."""
    if channel == "all":
        return SENTENCES["all"] + (", with weights chosen on validation." if chosen else ".")
    if channel == "fused" and of_model == ["fused"]:
        return "The trained model's score; it has no other channel."
    default = f"The part of the model that sees items through their {channel}."
    return SENTENCES.get(channel, default)


def _weight_text(weights: Mapping[str, float], channel: str) -> str:
    return f" Weight {weights[channel]:.3g}." if channel in weights else ""
