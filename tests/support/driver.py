"""An OpenCL driver that fails when it is told to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

DRIVER = Path(__file__).with_name("faulty_driver.c")


def faulty_driver(folder: Path, fault: Path) -> dict[str, str]:
    """Environment in which OpenCL fails in the way that the file ``fault`` says, while there is one."""
    compiler = shutil.which("cc")
    assert compiler is not None, "no C compiler to make the faulty driver with: apt-get install gcc"
    driver = folder / "driver.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", driver, DRIVER, "-ldl"], check=True)
    return {"LD_PRELOAD": str(driver), "TRITON_FPGA_TEST_FAULT": str(fault), "XDG_CACHE_HOME": str(folder / "cache")}
