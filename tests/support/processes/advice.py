"""Runs what an error message tells its reader to run, as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path


def run_advised(message: str, folder: Path, **settings: str) -> Path:
    """Run the one command in a message by a shell in `folder`; returns the NEW_FOLDER that it speaks of.

    `settings` are environment variables.
    """
    (command,) = re.findall(r"python -c .*$", message, re.M)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    ran = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, f"{command}\n{ran.stderr}"
    return folder / "NEW_FOLDER"
