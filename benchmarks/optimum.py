"""Cases a minute, beside `optimum-benchmark` with its process launcher, on one case of less than a millisecond.

    python -m venv /tmp/ob && /tmp/ob/bin/pip install torch==2.13.0
    /tmp/ob/bin/pip install optimum-benchmark "transformers<5" "datasets<4"    # 0.6.0 imports with no later ones
    python benchmarks/optimum.py /tmp/ob/bin/python [--quick]

Theirs: the latency of inference of a BERT of one layer (2 heads of 32, 64 tokens, random weights from a local file),
with one fresh process a case; with its defaults (10 s of calls at least) and with few calls (`duration: 0`). Ours: the
latency of an attention layer of that size under 64 seeds, from five fresh processes each, by `cab run` into an empty
store, after the laws have been checked. `cab run` starts once (5 s, which count), theirs anew for each case. Ours must
finish at least 20 times as many cases a minute as theirs with its defaults. `--quick`: theirs with few calls only, ours
with two seeds, and no verdict.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cab

BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 64,
}
THEIRS = """
import json, sys, time
from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, ProcessConfig, PyTorchConfig
from transformers import AutoConfig, AutoModel
if __name__ == "__main__":
    folder, how, cases = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    seconds, latency = [], 0.0
    for case in range(cases):
        backend = PyTorchConfig(model=folder, task="feature-extraction", library="transformers", model_type="bert",
                                device="cpu", intra_op_num_threads=1, seed=case)
        scenario = InferenceConfig(input_shapes={"batch_size": 1, "sequence_length": 64}, **how)
        config = BenchmarkConfig(name="case", backend=backend, scenario=scenario, launcher=ProcessConfig())
        start = time.perf_counter()
        latency = Benchmark.launch(config).forward.latency.mean
        seconds.append(time.perf_counter() - start)
    print("RESULT", json.dumps([sum(seconds) / len(seconds), latency]))
"""


def theirs(python: str, how: dict[str, int], cases: int) -> tuple[float, float]:
    """Return seconds a case, and the latency that it gives."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(BERT))
        script = Path(folder, "theirs.py")
        script.write_text(THEIRS)
        command = [python, str(script), folder, json.dumps(how), str(cases)]
        environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise SystemExit(f"optimum-benchmark failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    seconds, latency = json.loads(results[0].removeprefix("RESULT "))
    return seconds, latency


def ours(cases: int) -> tuple[float, float]:
    """Return seconds a case, and the latency."""
    overrides = [
        "mechanism=softmax",
        "task=speed",
        "seq_len=64",
        "batch=1",
        "heads=2",
        "dim=32",
        "level=layer",
        "threads=1",
    ]
    seeds = f"seed={','.join(map(str, range(cases)))}"
    with tempfile.TemporaryDirectory() as folder:
        cab.run([*overrides, "meters=[parameters]"], results=f"{folder}/laws", progress=False)
        start = time.perf_counter()
        rows = cab.run([*overrides, seeds, "meters=[latency]"], results=f"{folder}/results", progress=False)
        seconds = (time.perf_counter() - start) / cases
    assert len(rows) == cases and (rows["status"] == "ok").all(), rows[["status", "reason"]]
    return seconds, float(rows["value"].median())


def main(python: str, quick: bool) -> int:
    """Print both; return 1 where the aim is missed."""
    settings = {"few calls": {"duration": 0, "iterations": 10}} | ({} if quick else {"defaults": {}})
    our_seconds, latency = ours(2 if quick else 64)
    print(
        f"cab, five processes:              {60 / our_seconds:6.1f} cases a minute, a call takes {latency * 1e3:.3f} ms"
    )
    ratio = 0.0
    for name, how in settings.items():
        seconds, latency = theirs(python, how, 1 if quick else 3)
        ratio = seconds / our_seconds
        print(f"optimum-benchmark, {name:14} {60 / seconds:6.1f} cases a minute, a call takes {latency * 1e3:.3f} ms: "
              f"{ratio:.1f} times as many")  # fmt: skip
    return int(not quick and ratio < 20)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1], "--quick" in sys.argv[2:]))
