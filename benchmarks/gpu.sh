#!/usr/bin/env bash
# What a GPU gives: throughput against the ceilings, trials that share it, latency. One call, under 9 minutes.
# Needs torch, torchvision, timm, accelerate, numpy, polars, psutil, scipy, scikit-learn, typer and rich; of Prefect and
# DVC nothing. Run it in the repository: bash benchmarks/gpu.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
"$python" - <<'PY'
import importlib.util, sys
wanted = "torch torchvision timm accelerate numpy polars psutil scipy sklearn typer rich".split()
missing = [name for name in wanted if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"this Python lacks: {', '.join(missing)}")
import torch
if not torch.cuda.is_available():
    sys.exit("torch sees no GPU")
print(torch.cuda.get_device_name(), "torch", torch.__version__)
PY
date -u +%Y-%m-%d
# What fails or takes too long is said, and the rest goes on.
run() { echo "+ $*"; timeout 100 "$python" -m "$@" || echo "it ended with status $?"; }
run benchmarks.loop --layouts --image-size 224 --batch 64 --cut full --cut blocks.2
run benchmarks.loop --image-size 224 --images 6000 --rounds 2 --cut full --cut blocks.2
run benchmarks.loop --image-size 224 --images 6000 --rounds 2 --cut full --cut blocks.2 --precision bf16
run benchmarks.sharing --processes 1 --processes 2 --processes 4 --images 20000 --image-size 64
run benchmarks.device_latency --image-size 224
