"""Makes the pictures of the README from real runs: python docs/make_pictures.py (two minutes on two cores)."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parent / "pictures"
SWEEP = "lab train -m model=mlp optimizer.lr=0.001,0.01 seed=0,1,2 epochs=10"
PICTURED = {
    "sweep": [SWEEP, "lab ls --sort -test/accuracy --columns id,optimizer.lr,seed,test/accuracy"],
    "report": ["lab report outputs/sweeps --metric test/accuracy"],
}
WIDTH = 118


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, commands in PICTURED.items():
            console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))
            for command in commands:
                console.print(Text("$ ", "green") + Text(command, "bold"))
                ran = subprocess.run(
                    [sys.executable, "-m", *command.split()],
                    cwd=folder,
                    env={**os.environ, "COLUMNS": str(WIDTH)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=True,
                )
                for line in ran.stdout.splitlines():
                    if "  epoch " not in line:  # the lines of single runs' progress
                        console.print(Text(line[:WIDTH]))
            drawn = console.export_svg(title="lab", unique_id=name)
            drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)  # no font from elsewhere
            (PICTURES / f"{name}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
