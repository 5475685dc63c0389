"""A copy of the programs as a fresh clone has them, with the Python environment of this one."""

import shutil
import subprocess
from pathlib import Path

from support.programs import ROOT

DEMO_REQUIREMENTS = ("scripts/requirements-image.txt", "scripts/requirements.txt")


def copy_programs(folder: Path) -> Path:
    """Copy scripts/, serving/ and transformer.py to `folder`, with an environment that demo.sh takes as up to date."""
    for name in ("scripts", "serving"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    shutil.copy(ROOT / "transformer.py", folder)
    venv = folder / "scripts/.venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(ROOT / "scripts/.venv" / name)
    with (venv / "requirements.cksum").open("w") as stamp:
        subprocess.run(f"cat {' '.join(DEMO_REQUIREMENTS)} | cksum", shell=True, cwd=folder, stdout=stamp, check=True)
    return folder
