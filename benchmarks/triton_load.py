"""Load on a Triton server with `fexport triton`'s model: clients that ask without a pause; is every answer there and the same?

python benchmarks/triton_load.py --clients 8 --seconds 120 --out benchmarks/results/triton_load.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from triton_server import ROOT, installed, serving

from fexport.bench import measure
from fexport.triton import repository
from fexruntime import Detector
from fexruntime.bundle import open_bundle

PHOTO = ROOT / "export" / "fexport" / "photographs" / "astronaut.jpg"
BROKEN_EACH = 10
"""One request in so many is a picture that is cut off."""


def main() -> None:
    """Start the server, ask it (half of the clients over HTTP, half over gRPC), write what happened."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--bundle", default="edge")
    words.add_argument("--clients", type=int, default=8)
    words.add_argument("--seconds", type=float, default=120)
    words.add_argument("--out", type=Path, required=True)
    chosen = words.parse_args()
    if installed():
        raise SystemExit(installed())
    data = PHOTO.read_bytes()
    expected = Detector(chosen.bundle, threads=1).detect(data).values
    said, waits, lock = Counter[str](), list[float](), threading.Lock()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        repository.write(open_bundle(chosen.bundle), models, repository.Serving(threads=1), {})
        with serving(models, Path(folder)) as server:
            end = time.monotonic() + chosen.seconds

            def client(number: int) -> None:
                module: Any = over_http if number % 2 else over_grpc
                asking = module.InferenceServerClient(server.http if number % 2 else server.grpc)
                k = number
                while time.monotonic() < end:
                    k += 1
                    broken = k % BROKEN_EACH == 0
                    start = time.perf_counter()
                    answer = _ask(module, asking, data[:2000] if broken else data, expected)
                    with lock:
                        waits.append(time.perf_counter() - start)
                        said[f"{'broken picture' if broken else 'photograph'}: {answer}"] += 1
                asking.close()  # the server waits for open connections when it ends

            threads = [threading.Thread(target=client, args=(n,)) for n in range(chosen.clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            with over_grpc.InferenceServerClient(server.grpc) as asking:
                counted = asking.get_inference_statistics("fexport", as_json=True)["model_stats"][0]
        ended, stubs = server.process.returncode, server.ends.read_text(encoding="utf-8").split()
    result = {
        "command": f"python benchmarks/triton_load.py --clients {chosen.clients} --seconds {chosen.seconds:g}",
        "machine": measure.machine(),
        "bundle": chosen.bundle,
        "answers": dict(sorted(said.items())),
        "ms_p50_p99_max": [round(1e3 * float(np.quantile(waits, q)), 1) for q in (0.5, 0.99, 1)],
        "inferences": int(counted["inference_count"]),
        "executions": int(counted["execution_count"]),
        "executions_by_batch": {b["batch_size"]: int(b["compute_infer"]["count"]) for b in counted["batch_stats"]},
        "exit_status_on_sigterm": ended,
        "exit_statuses_of_stubs": list(map(int, stubs)),
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def _ask(module: Any, asking: Any, data: bytes, expected: Any) -> str:
    """What came back, in a word."""
    given = module.InferInput("image", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[data]], object))
    try:
        values = asking.infer("fexport", [given]).as_numpy("values")[0]
    except Exception as error:
        text = str(error)
        return "refused as cut off" if "cut off" in text else f"error {text[:80]}"
    return "the numbers of detect" if np.array_equal(values, expected, equal_nan=True) else "other numbers"


if __name__ == "__main__":
    main()
