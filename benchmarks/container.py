"""Builds cpu.Dockerfile, runs it as compose.yaml does, and holds what it answers to what this checkout answers.

    python benchmarks/container.py                      # docker; --engine podman
    python benchmarks/container.py --built fexport:cpu  # an image that is there

Words after `--` go to the engine's `run`. The exit status is 1, with what was wrong, where the service is not ready within a minute, answers a
photograph with other numbers, runs as root, can write into its root, cannot write its cache, or does not end with status 0 on SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import yaml

from fexport.serving.app import as_objects
from fexruntime import Detector

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "export" / "fexport" / "photographs" / "astronaut.jpg"
LOOKS = """
id -u
touch /written 2>/dev/null && echo writes / || echo reads only
ls $FEXPORT_CACHE 2>/dev/null | wc -l
"""


def main() -> None:
    """Build, run, ask, end."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--engine", default="docker")
    words.add_argument("--built", help="this image, instead of building one")
    words.add_argument("more", nargs="*", help="for the engine's run")
    chosen = words.parse_args()
    image = chosen.built or "fexport:check"
    if not chosen.built:
        dockerfile = ROOT / "docker" / "cpu.Dockerfile"
        subprocess.run([chosen.engine, "build", "-f", dockerfile, "-t", image, ROOT], check=True)
    service = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]["fexport"]
    port = service["command"][service["command"].index("--port") + 1]
    name = f"fexport-check-{uuid.uuid4().hex[:8]}"

    def engine(*arguments: str, stderr: int = subprocess.PIPE) -> str:
        words = [chosen.engine, *arguments]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", check=False)
        if done.returncode:
            raise SystemExit(f"{chosen.engine} {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    options = [f"--publish=127.0.0.1:{port}:{port}", *(f"--tmpfs={at}" for at in service["tmpfs"])]
    options += [f"--cap-drop={what}" for what in service["cap_drop"]]
    options += [f"--security-opt={what}" for what in service["security_opt"]]
    options += [f"--volume={name}:{at.partition(':')[2]}" for at in service["volumes"]]
    options += ["--read-only"] if service["read_only"] else []
    try:
        engine("run", "--detach", "--name", name, *options, *chosen.more, image, *service["command"])
        ask(port, "/readyz", wait_s=60)
        said = json.loads(ask(port, "/v1/faces", PHOTO.read_bytes()))
        here = json.loads(json.dumps(as_objects(Detector("edge", threads=2).detect(PHOTO.read_bytes()))))
        user, root, kept = engine("exec", name, "sh", "-c", LOOKS).splitlines()
        engine("stop", "-t", service["stop_grace_period"].rstrip("s"), name)
        ended = engine("inspect", "--format", "{{.State.ExitCode}}", name).strip()
        log = engine("logs", name, stderr=subprocess.STDOUT)  # the service's lines are on its standard error
    finally:
        for what in (["rm", "--force", name], ["volume", "rm", "--force", name]):
            subprocess.run([chosen.engine, *what], capture_output=True, check=False)
    size_mb = int(engine("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
    found: dict[str, Any] = {
        "the photograph's numbers": (said["rows"], here),
        "user": (user, "10001"),
        "its root": (root, "reads only"),
        "files in its cache": (int(kept) > 0, True),
        "status on SIGTERM": (ended, "0"),
        "a traceback in its log": ("Traceback" in log, False),
    }
    wrong = {what: pair for what, pair in found.items() if pair[0] != pair[1]}
    print(f"{image}: {size_mb:.0f} MB; checked: {', '.join(found)}")
    if wrong:
        raise SystemExit("\n".join(f"{what}: {is_!r} instead of {should!r}" for what, (is_, should) in wrong.items()))


def ask(port: str, route: str, body: bytes | None = None, wait_s: float = 0) -> bytes:
    """What the service answers; asked again for so long while it is not there."""
    end = time.monotonic() + wait_s
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{route}", body, timeout=30) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main()
