"""The machine: driver, libraries, and what each of them sees."""

import importlib
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.gpu.device import Gpu
from benchmarks.gpu.report import Report
from training.device import machine_text

OLDEST_DRIVER = 580
QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]


def environment(gpu: Gpu, _folder: Path, report: Report) -> None:
    if gpu.is_pretended:
        os.environ["DS_ACCELERATOR"] = "cpu"
    faiss = importlib.import_module("faiss")
    importlib.import_module("deepspeed")  # which compiles nothing: nvcc is not needed
    found = importlib.import_module("deepspeed.accelerator").get_accelerator().device_name()
    report.note("torch", f"{torch.__version__}, CUDA {torch.version.cuda}")
    report.note("deepspeed", f"{version('deepspeed')}, on {found}")
    report.note("faiss", f"{faiss.__version__}, {faiss.get_num_gpus()} GPUs")
    report.note("nvcc", shutil.which("nvcc") or "none")
    report.note("machine", machine_text(torch.device("cpu") if gpu.is_pretended else gpu.device))
    if gpu.is_pretended:
        return
    lines = subprocess.check_output(QUERY, text=True).splitlines()
    report.note("GPUs", lines)
    drivers = [line.split(", ")[1] for line in lines]
    oldest = min(int(driver.split(".")[0]) for driver in drivers)
    report.require(oldest >= OLDEST_DRIVER, f"driver {drivers[0]}: CUDA 13 needs R580 or newer")
    count = torch.cuda.device_count()
    report.require(faiss.get_num_gpus() == count, "faiss sees other GPUs: install faiss-gpu")
    report.require(found == "cuda", f"deepspeed uses {found}")
    report.note("bf16", torch.cuda.is_bf16_supported(including_emulation=False))
