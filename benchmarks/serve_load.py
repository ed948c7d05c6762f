"""Load on `fexport serve`: clients that ask without a pause; is every answer there, and always the same?

python benchmarks/serve_load.py --clients 8 --seconds 120 --out benchmarks/results/serve_load.json
python benchmarks/serve_load.py --clients 8 --seconds 20 --queue 2 --out benchmarks/results/serve_full_queue.json
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from fexport.bench import measure

PHOTO = Path(__file__).parent.parent / "export" / "fexport" / "photographs" / "astronaut.jpg"


def main() -> None:
    """Start the service, ask it, end it, write what happened."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--bundle", default="edge")
    words.add_argument("--clients", type=int, default=8)
    words.add_argument("--seconds", type=float, default=120)
    words.add_argument("--queue", type=int, default=16)
    words.add_argument("--out", type=Path, required=True)
    chosen = words.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", chosen.bundle, "--port", str(port), "--threads", "1", "--queue", str(chosen.queue)]
    service = subprocess.Popen([sys.executable, "-m", "fexport", *command], stderr=subprocess.DEVNULL)
    base, data = f"http://127.0.0.1:{port}", PHOTO.read_bytes()
    try:
        ready = False
        while not ready:
            try:
                ready = httpx.get(f"{base}/readyz").status_code == 200
            except httpx.TransportError:
                if service.poll() is not None:
                    raise SystemExit("the service did not start") from None
                time.sleep(0.1)
        statuses, bodies, waits = Counter[str](), Counter[bytes](), dict[str, list[float]]()
        end = time.monotonic() + chosen.seconds

        def client() -> None:
            with httpx.Client(base_url=base, timeout=60) as asking:
                while time.monotonic() < end:
                    start = time.perf_counter()
                    try:
                        said = asking.post("/v1/faces", content=data)
                    except httpx.HTTPError as error:
                        statuses[type(error).__name__] += 1
                        continue
                    waits.setdefault(str(said.status_code), []).append(time.perf_counter() - start)
                    statuses[str(said.status_code)] += 1
                    if said.status_code == 200:
                        bodies[said.content] += 1

        threads = [threading.Thread(target=client) for _ in range(chosen.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        service.terminate()
        ended = service.wait(30)
    said = {
        "command": f"python benchmarks/serve_load.py --clients {chosen.clients} --seconds {chosen.seconds:g} --queue {chosen.queue}",
        "machine": measure.machine(),
        "bundle": chosen.bundle,
        "answers_by_status": dict(statuses),
        "different_answers": len(bodies),
        "ms_p50_p99_max_by_status": {
            status: [round(1e3 * float(np.quantile(taken, q)), 1) for q in (0.5, 0.99, 1)]
            for status, taken in sorted(waits.items())
        },
        "exit_status_on_sigterm": ended,
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
