"""The hint at an unknown key: the key that was probably meant."""

import difflib
from collections.abc import Collection, Mapping

from mdsrec.config.section import listed

OTHER_NAMES = {  # of our keys, in other libraries
    "root": ("output", "output_dir", "out_dir", "save_dir", "data_dir"),
    "seed": ("random_seed", "random_state"),
    "k_core": ("kcore", "core", "min_interactions"),
    "encoder": ("model", "model_name", "model_name_or_path", "backbone"),
    "max_tokens": ("max_length", "max_len", "max_seq_length"),
    "ids": ("asins",),
    "vectors": ("embeddings", "path", "file"),
    "driver_memory": ("memory",),
    "partitions": ("num_partitions", "shuffle_partitions"),
    "dim": (
        *("d_model", "width", "hidden_size", "hidden_dim", "hidden_units", "embed_dim"),
        *("embedding_size", "embedding_dim", "emb_size", "emb_dim"),
    ),
    "inner_dim": ("inner_size", "d_ff", "ffn_dim", "intermediate_size", "dim_feedforward"),
    "num_layers": ("layers", "n_layers", "n_layer", "num_blocks", "depth"),
    "num_heads": ("heads", "n_heads", "n_head", "nhead", "num_attention_heads"),
    "dropout": ("dropout_rate", "dropout_prob", "hidden_dropout_prob", "drop_rate"),
    "max_length": ("max_len", "seq_len", "max_seq_len", "max_seq_length"),
    "num_neighbors": ("neighbors", "n_neighbors"),
    "num_centers": ("centers", "clusters", "num_clusters", "n_clusters", "num_interests"),
    "mask_share": ("mask_ratio", "mask_prob"),
    "lr": ("learning_rate", "step_size"),
    "gradient_clipping": ("clip", "grad_clip", "clip_norm", "clip_grad_norm", "max_grad_norm"),
    "warmup_steps": ("warmup", "num_warmup_steps"),
    "decay": ("schedule", "scheduler", "lr_scheduler", "lr_decay"),
    "decay_steps": ("max_steps", "total_steps", "num_training_steps"),
    "batch_size": ("batch", "train_batch_size", "global_batch_size"),
    "max_epochs": ("epochs", "num_epochs", "n_epochs", "num_train_epochs"),
    "patience": ("early_stopping", "early_stopping_patience", "stopping_step"),
    "num_negatives": ("n_negatives", "num_neg", "neg_samples", "negative_samples"),
    "num_workers": ("workers", "gpus", "num_gpus", "world_size"),
    "accumulation": ("grad_accum", "gradient_accumulation", "gradient_accumulation_steps"),
    "precision": ("amp", "dtype", "fp16", "bf16", "mixed_precision"),
    "cutoffs": ("k", "ks", "topk", "top_k"),
    "exclude_seen": ("filter_seen", "remove_seen"),
    "trials": ("n_trials", "num_trials", "num_samples"),
}


def nearest_key(key: str, own: Collection[str], sections: Mapping[str, Collection[str]]) -> str:
    """Return a hint at the key that the unknown `key` of a section means.

    `own` are the keys of that section. The other `sections` are searched only for the name itself
    or one of its other names, and only if the section has neither.
    """
    wanted = key.lower().replace("-", "_")
    if named := _named(wanted, own):
        return f"the nearest key is {named}"
    for section, keys in sections.items():
        if named := _named(wanted, keys):
            return f"the nearest key is {section}.{named}"
    if near := difflib.get_close_matches(wanted, own, n=1):
        return f"the nearest key is {near[0]}"
    return f"choose from {listed(own)}"


def _named(wanted: str, keys: Collection[str]) -> str | None:
    if wanted in keys:
        return wanted
    return next((key for key in keys if wanted in OTHER_NAMES.get(key, ())), None)
