"""CIFAR-10 ready to train, decoded the first time and mapped into memory the second, beside Pillow image by image.

    LAB_DATA=... python benchmarks/cached_images.py [--repeats 3]

Needs cifar10/train.parquet and test.parquet there. Each way is a process of its own, and they take turns; the imports
are not counted. This prints medians in seconds, and the medians of the ratios of the turns to Pillow's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

FOLDER = str(Path(os.environ.get("LAB_DATA", "data")) / "cifar10")
LAB = f"""
import time
import torch
from lab.data.cifar10 import cifar10
torch.set_num_threads(2)
began = time.perf_counter()
cifar10({FOLDER!r}, batch_size=128, seed=0)
print(time.perf_counter() - began)
"""
PILLOW = f"""
import io, time
import numpy, torch
from PIL import Image
from pyarrow import parquet
began = time.perf_counter()
for split in ("train", "test"):
    rows = parquet.read_table({FOLDER!r} + f"/{{split}}.parquet").column("img").to_pylist()
    images = [numpy.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows]
    torch.from_numpy(numpy.stack(images)).permute(0, 3, 1, 2).contiguous()
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for name, code in (("Pillow", PILLOW), ("lab, the first time", LAB), ("lab, again", LAB)):
                environment = {**os.environ, "LAB_CACHE": cache}
                done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                times[name].append(float(done.stdout))
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, times["Pillow"], strict=True))
        print(f"{name:<20} {statistics.median(own):6.2f} s  {ratio:5.3f} of Pillow")


if __name__ == "__main__":
    main()
