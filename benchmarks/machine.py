"""What a figure was measured on."""

import datetime
import os
import platform

import torch

from charlm.timings import processor


def machine(device: torch.device) -> str:
    """Return what a timing was taken on: device, system, versions and the day."""
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()}, {os.cpu_count()} cores"
    )
    return (
        f"{where}, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {datetime.date.today().isoformat()}"
    )
