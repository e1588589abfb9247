"""The configuration of an experiment: one TOML file that every stage reads.

Sections are typed and frozen. An unknown key is an error that names the nearest known key.
"""

from mdsrec.config.etl import (
    FeatureConfig,
    FeaturesConfig,
    GraphConfig,
    SequencesConfig,
    SparkConfig,
)
from mdsrec.config.experiment import Experiment
from mdsrec.config.input import ColumnsConfig, InputConfig
from mdsrec.config.model_base import ModelConfig, TransformerConfig
from mdsrec.config.models import MDSRecConfig
from mdsrec.config.training import EvalConfig, OptimConfig, TrainConfig
from mdsrec.config.transitions import TransitionsConfig
from mdsrec.config.tune import TuneConfig

__all__ = [
    "ColumnsConfig",
    "EvalConfig",
    "Experiment",
    "FeatureConfig",
    "FeaturesConfig",
    "GraphConfig",
    "InputConfig",
    "MDSRecConfig",
    "ModelConfig",
    "OptimConfig",
    "SequencesConfig",
    "SparkConfig",
    "TrainConfig",
    "TransformerConfig",
    "TransitionsConfig",
    "TuneConfig",
]
