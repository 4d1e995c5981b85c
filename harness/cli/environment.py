"""Keep what stands in the environment from changing numbers in silence. docs/environment.md says the same in words."""

from __future__ import annotations

import os

DROPPED = (
    "ACCELERATE_*",
    "FSDP_*",
    "PARALLELISM_CONFIG_*",
    "DEEPSPEED_*",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "ROLE_*",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_*",
    "FORK_LAUNCHED",
    "PMI_*",
    "PMIX_*",
    "OMPI_*",
    "MV2_*",
    "MPI_*",
    "I_MPI_*",
    "SLURM_*",
    "GIT_*",
    "USE_TORCH",
    "USE_TF",
    "USE_JAX",
    "USE_TORCH_XLA",
    "USE_HUB_KERNELS",
    "XLA_*",
    "PJRT_*",
    "TPU_*",
    "TRANSFORMERS_SDPA_*",
    "TRANSFORMERS_DISABLE_*",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "NVIDIA_TF32_OVERRIDE",
    "TORCHDYNAMO_*",
    "TORCHINDUCTOR_*",
    "TORCH_COMPILE_*",
    "TORCH_LOGS",
    "OPTUNA_*",
    "LMEVAL_*",
)
"""Removed from the command's own process: other programs' wishes. A star stands for any ending."""


def settle() -> None:
    """Drop what could change numbers. Call it before the libraries that read it are imported."""
    for name in list(os.environ):
        if is_dropped(name):
            del os.environ[name]


def is_dropped(name: str) -> bool:
    """Tell whether the command drops a variable."""
    return any(name.startswith(known[:-1]) if known.endswith("*") else name == known for known in DROPPED)
