"""What a result was measured on: no host name, no user, no path."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil


def facts() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def load() -> float:
    """Give the load of the last minute: above the number of cores, latencies say little."""
    return round(os.getloadavg()[0], 1)


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
