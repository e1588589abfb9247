"""The checks of a GPU: their functions, their time-outs and what is expected of an H200."""

from typing import NamedTuple


class Check(NamedTuple):
    """A function of (gpu, folder, report), and the most seconds that it may take on a GPU."""

    function: str
    seconds: float
    expected: str


PRETENDED_SECONDS = 900.0  # of any check on a CPU
CHECKS = {
    "environment": Check(
        "benchmarks.gpu.environment:environment",
        60,
        "driver 580 or newer; torch and faiss see every GPU; deepspeed imports without nvcc and "
        "takes cuda",
    ),
    "models": Check(
        "benchmarks.gpu.models:models",
        180,
        "losses of CPU and GPU within 1e-5, gradients within 1e-4 of their largest; bf16 losses "
        "within 1e-2; no step waits for the GPU",
    ),
    "gru": Check(
        "benchmarks.gpu.models:gru",
        60,
        "states in float32 under bf16, and no more zero gradients than in fp32",
    ),
    "determinism": Check(
        "benchmarks.gpu.sums:determinism",
        60,
        "sums over graphs with the same bits in two runs, within 1e-5 of float64; of a whole step "
        "at most the gradients behind attention differ",
    ),
    "equal items": Check(
        "benchmarks.gpu.ranking:equal_items",
        60,
        "equal items have equal bits at any place; ranks take 1 pass over the items",
    ),
    "long bags": Check(
        "benchmarks.gpu.sums:long_bags",
        60,
        "less than 0.1, 0.5 and 5 ms for 4 thousand, 100 thousand and 1 million items",
    ),
    "pace": Check(
        "benchmarks.gpu.pace:pace",
        150,
        "about 370 kernels a step at any number of prefixes; 80 to 110 thousand prefixes/s at 512 "
        "prefixes, 600 to 900 thousand at 8,192 in tf32; no attention as plain products",
    ),
    "million items": Check(
        "benchmarks.gpu.pace:million_items",
        120,
        "large tiles of scores at least as fast as tiles of 8 MiB; a working set below 4 GiB",
    ),
    "ranking": Check(
        "benchmarks.gpu.ranking:pace",
        90,
        "2,048 x 65,536 at least 10 times as fast as 256 x 1,024 (14 thousand targets/s); ranks "
        "equal to the CPU's but for near ties",
    ),
    "whole path": Check(
        "benchmarks.gpu.path:whole_path",
        420,
        "the demo trains by Ray and DeepSpeed at ZeRO 0, 1, 3 and with an offloaded optimizer, "
        "resumes after a kill, and is ranked; ndcg within 0.01 of the CPU's after an epoch",
    ),
    "search": Check(
        "benchmarks.gpu.search:search",
        90,
        "faiss finds the neighbors that numpy finds, up to ties; 8 processes take 1 GB each",
    ),
}
