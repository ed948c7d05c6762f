"""Videos: memory over a long one, kills, how much reading, networks and writing overlap, what following faces costs and gives.

    python benchmarks/video.py memory BUNDLE CLIP       RSS every 100 frames of a run over 10 000, and its slope
    python benchmarks/video.py kills [BUNDLE CLIP]      runs that are killed at random and gone on with, for CSV and Parquet
    python benchmarks/video.py overlap BUNDLE CLIP      the whole run's rate beside each stage's own, in turns
    python benchmarks/video.py tracking BUNDLE CLIP     time a frame and drift of boxes for --detect-every 1, 2, 5, 10, in turns
    python benchmarks/video.py every-fifth CLIP --weights DIR --pyfeat-python PYTHON --bundle fp32=BUNDLE --bundle int8=BUNDLE
                                                        Detectorv2 that detects in every 5th frame, beside py-feat, in turns

Every sample goes to results/video_NAME.json. CLIP is any short video; 10 000 frames are made of it by repeating its packets.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
import pandas as pd
import psutil

from fexport.bench import measure
from fexport.bench.pyfeat import PyFeat
from fexruntime import Detector, finders, record, recording
from fexruntime.columns import select
from fexruntime.naming import Namer
from fexruntime.options import Options
from fexruntime.sinks import FORMATS, Schema
from fexruntime.sources.inputs import Frames
from fexruntime.sources.video import Video
from fexruntime.versions import installed

RESULTS = Path(__file__).parent / "results"
PROGRAM = """
import json, sys
from fexruntime import Detector, record
bundle, clip, out, resume, options = sys.argv[1:]
detector = Detector(bundle)
print("ready", flush=True)
record(detector, clip, out, resume=resume == "resume", commit_every_s=0.1, **json.loads(options))
"""


@click.group()
def main() -> None:
    """Measure and write."""


@main.command()
@click.argument("bundle")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--frames", default=10_000, show_default=True)
@click.option("--output-size", default=320, show_default=True)
@click.option("--threads", default=2, show_default=True)
def memory(bundle: str, clip: Path, frames: int, output_size: int, threads: int) -> None:
    """RSS over a long video."""
    process, samples, seen = psutil.Process(), [], 0
    with tempfile.TemporaryDirectory() as folder, Detector(bundle, threads=threads) as detector:
        long = looped(clip, Path(folder) / "long.mp4", frames)

        def on_batch(batch: Any) -> None:
            nonlocal seen
            before, seen = seen, seen + len(batch)
            if before // 100 != seen // 100:
                samples.append([seen, process.memory_info().rss])

        done = record(detector, long, Path(folder) / "rows.parquet", on_batch=on_batch, output_size=output_size)
    # the first thousand frames fill buffers and caches
    x, y = (np.array(v, np.float64) for v in zip(*[s for s in samples if s[0] > 1000], strict=True))
    slope, cut = np.polyfit(x, y, 1)
    spread = float(np.std(y - (slope * x + cut)))
    save("memory", bundle, clip, {
        "frames": done.frames, "faces": done.faces, "output_size": output_size, "rss_bytes_by_frame": samples,
        "slope_bytes_a_frame": float(slope), "slope_standard_error": spread / float(np.std(x) * np.sqrt(len(x))),
        "rss_spread_bytes": spread,
    })  # fmt: skip


@main.command()
@click.argument("bundle", default="edge")
@click.argument("clip", type=click.Path(path_type=Path), required=False)
@click.option("--trials", default=20, show_default=True)
@click.option("--skip-frames", default=1, show_default=True)
def kills(bundle: str, clip: Path | None, trials: int, skip_frames: int) -> None:
    """Killed at random, gone on with, compared cell by cell. Without a CLIP: of the packaged photograph, moved about."""
    words = " ".join(["python benchmarks/video.py kills", *([bundle, clip.name] if clip else [])])
    with tempfile.TemporaryDirectory() as folder:
        clip = clip or _moved_photograph(Path(folder) / "moved_photograph.mp4")
        save("kills", bundle, clip, {"command": words} | _killed(bundle, clip, trials, skip_frames))


def _moved_photograph(path: Path, frames: int = 120) -> Path:
    sys.path.append(str(RESULTS.parents[1] / "tests"))
    import clips

    photo = RESULTS.parents[1] / "export" / "fexport" / "photographs" / "astronaut.jpg"
    return clips.write(path, clips.pictures(photo, frames))


def _killed(bundle: str, clip: Path, trials: int, skip_frames: int) -> dict[str, Any]:
    """By format: of each trial when it was killed, how many rows were kept, and whether the table was the same at the end."""
    found: dict[str, Any] = {}
    dice = random.Random(20)
    for suffix in (".csv", ".parquet"):
        options = json.dumps({"skip_frames": skip_frames, **({"track": True} if suffix == ".parquet" else {})})
        with tempfile.TemporaryDirectory() as folder:
            whole, trial_list = Path(folder) / f"whole{suffix}", []
            start = time.monotonic()
            subprocess.run([sys.executable, "-c", PROGRAM, bundle, str(clip), str(whole), "new", options], check=True)
            length = time.monotonic() - start
            while len(trial_list) < trials:
                out = Path(folder) / f"out{suffix}"
                command = [sys.executable, "-c", PROGRAM, bundle, str(clip), str(out)]
                run = subprocess.Popen([*command, "new", options], stdout=subprocess.PIPE)
                run.stdout.readline()  # type: ignore[union-attr]
                wait = dice.random() * length
                try:
                    run.wait(wait)
                    out.unlink()
                    continue  # done before its time came
                except subprocess.TimeoutExpired:
                    run.send_signal(signal.SIGKILL)
                    run.wait()
                journal = Path(f"{out}.journal")
                last = (
                    journal.read_text(encoding="utf-8").splitlines()[-1].partition(" ")[2] if journal.exists() else "{}"
                )
                kept = json.loads(last).get("rows", 0)
                if not out.exists():
                    subprocess.run([*command, "resume", options], check=True)
                read = pd.read_csv if suffix == ".csv" else pd.read_parquet
                equal = read(out).equals(read(whole)) and (suffix != ".csv" or out.read_bytes() == whole.read_bytes())
                trial_list.append({"killed_after_s": wait, "rows_kept": kept, "equal": equal})
                for path in (out, Path(f"{out}.part"), journal):
                    path.unlink(missing_ok=True)
        found[suffix] = trial_list
        print(suffix, sum(t["equal"] for t in trial_list), "of", len(trial_list), flush=True)
    return found


@main.command()
@click.argument("bundle")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--frames", "length", type=int, help="Repeat the clip's packets until it has so many.")
@click.option("--name", default="overlap", show_default=True, help="Of the record.")
def overlap(bundle: str, clip: Path, rounds: int, threads: int, length: int | None, name: str) -> None:
    """The whole beside its parts, in turns: wall and CPU time of each, and how long the whole's start and end are.

    Rows are written so many at a time as `record` does. Frames of the networks' turn are in memory, its start and end are none.
    """
    stages = ("decode", "networks", "write", "whole")
    samples: dict[str, list[float]] = {s: [] for s in stages}
    cpu: dict[str, list[float]] = {s: [] for s in stages}
    ends: list[list[float]] = []
    options = Options()
    at_once = recording.AT_ONCE
    with tempfile.TemporaryDirectory() as folder, Detector(bundle, threads=threads) as detector:
        film = clip if length is None else looped(clip, Path(folder) / "long.mp4", length)
        frames = list(Frames(str(film), ahead=False))
        results = [r for f in frames for r in detector.run([f])]
        selection = select(detector.pipeline, None, video=True)
        form = FORMATS[".parquet"]
        schema = Schema(selection.all_columns, selection.dtypes)
        for _ in range(rounds):
            for stage in stages:
                (Path(folder) / "whole.parquet").unlink(missing_ok=True)
                gc.collect()
                used, start = time.process_time(), time.perf_counter()
                if stage == "decode":
                    video = Video(film)
                    for _ in video.frames(range(video.timeline.frames)):
                        pass
                elif stage == "networks":
                    for frame in frames:
                        detector.run([frame], options)
                elif stage == "write":
                    namer, part = Namer(0.8), Path(folder) / "part"
                    with part.open("wb") as file:
                        file.write(form.head(schema))
                        for k in range(0, len(results), at_once):
                            table = detector.assemble(results[k : k + at_once], selection, namer.names)
                            file.write(form.block(table, schema))
                    form.finish(part, Path(folder) / "rows.parquet")
                else:
                    done: list[float] = []

                    def on_batch(batch: Any, done: list[float] = done) -> None:
                        done.append(time.perf_counter())

                    record(detector, film, Path(folder) / "whole.parquet", on_batch=on_batch)
                    ends.append([done[0] - start, time.perf_counter() - done[-1]])
                samples[stage].append((time.perf_counter() - start) / len(frames))
                cpu[stage].append((time.process_time() - used) / len(frames))
    middle = {stage: statistics.median(s) for stage, s in samples.items()}
    slowest = max(stages[:-1], key=lambda s: middle[s])
    busy = sum(statistics.median(cpu[s]) for s in stages[:-1])
    save(name, bundle, clip, {
        "threads": threads, "frames": len(frames), "seconds_a_frame": samples, "cpu_s_a_frame": cpu,
        "first_frame_and_end_s": ends, "median_s": middle, "slowest": slowest,
        "whole_over_slowest": middle[slowest] / middle["whole"],
        # of a machine that is not quiet, the rounds that were least disturbed
        "fastest_over_fastest": min(samples[slowest]) / min(samples["whole"]),
        "whole_over_slowest_by_round": [a / b for a, b in zip(samples[slowest], samples["whole"], strict=True)],
        "best_that_cores_allow": min(1.0, middle[slowest] * psutil.cpu_count() / busy),
    })  # fmt: skip


@main.command()
@click.argument("bundle")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
def tracking(bundle: str, clip: Path, rounds: int, threads: int) -> None:
    """Following faces beside detecting them in every frame."""
    every = (1, 2, 5, 10)
    samples: dict[int, list[float]] = {n: [] for n in every}
    drift: dict[int, dict[str, float]] = {}
    with Detector(bundle, threads=threads) as detector:
        given: dict[int, list[Any]] = {}
        for _ in range(rounds):
            for n in every:
                start = time.perf_counter()
                given[n] = list(detector.stream(clip, detect_every=n))
                samples[n].append((time.perf_counter() - start) / len(given[n]))
    for n in every[1:]:
        pairs = [(a, b) for a, b in zip(given[1], given[n], strict=True) if len(a) == len(b) == 1]
        corners = np.concatenate([np.abs(a.boxes_xyxy_px - b.boxes_xyxy_px) for a, b in pairs])
        drift[n] = {
            "frames_of_one_face_in_both": len(pairs), "frames": len(given[n]),
            "box_corner_px_mean": float(corners.mean()), "box_corner_px_p95": float(np.percentile(corners, 95)),
            "box_corner_px_max": float(corners.max()),
            "box_width_px_mean": float(np.mean([b.boxes_xyxy_px[0, 2] - b.boxes_xyxy_px[0, 0] for _, b in pairs])),
        }  # fmt: skip
        if all(a.landmarks_xy_px is not None for a, _ in pairs):
            apart = [np.linalg.norm(a.landmarks_xy_px - b.landmarks_xy_px, axis=-1).mean() for a, b in pairs]
            drift[n]["landmarks_px_mean"] = float(np.mean(apart))
    middle = {n: statistics.median(s) for n, s in samples.items()}
    save("tracking", bundle, clip, {
        "threads": threads, "seconds_a_frame": samples, "median_s": middle,
        "times_faster_than_every_frame": {n: middle[1] / middle[n] for n in every}, "drift": drift,
    })  # fmt: skip


@main.command("every-fifth")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path, exists=True), required=True, help="Weights both sides load.")
@click.option("--pyfeat-python", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--bundle", "bundles", multiple=True, required=True, metavar="PRECISION=DIR")
@click.option("--backend", "backends", multiple=True, metavar="PRECISION=ROLE=NAME", help="Instead of what was tuned.")
@click.option("--frames", default=20, show_default=True)
@click.option("--every", default=5, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--append", is_flag=True, help="Add samples to those of the record that is there.")
def every_fifth(
    clip: Path,
    weights: Path,
    pyfeat_python: Path,
    bundles: tuple[str, ...],
    backends: tuple[str, ...],
    frames: int,
    every: int,
    rounds: int,
    threads: int,
    append: bool,
) -> None:
    """A whole `detect` of a video, beside py-feat's.

    Both run their RetinaFace-R34; made-up weights find noise, so its answer is then replaced: by the one face that the packaged detector
    finds in that frame here, by the first frame's there. So each reads one face a frame, and what is followed is a real one.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        film = Path(folder) / "film.mp4"
        cut = ["ffmpeg", "-v", "error", "-i", str(clip), "-an", "-frames:v", str(frames), "-crf", "12", str(film)]
        subprocess.run(cut, check=True)
        with Detector() as edge:
            real = {r.index: r.boxes_xyxy_px[:1] for r in edge.stream(film)}
        network = finders.FINDERS["retinaface"]

        def replaced(step: Any, some: Any, options: Any, workspace: Any) -> Any:
            network(step, some, options, workspace)
            return [finders.given(step, real[frame.index]) for frame in some]

        finders.FINDERS["retinaface"] = replaced
        named = [b.split("=") for b in backends]
        detectors = {
            name: stack.enter_context(
                Detector(path, backend={r: b for n, r, b in named if n == name} or "auto", threads=threads)
            )
            for name, _, path in (b.partition("=") for b in bundles)
        }
        pyfeat = stack.enter_context(
            PyFeat(
                pyfeat_python,
                "detectorv2",
                "arcface",
                weights,
                threads,
                real[0].tolist(),
                np.zeros((64, 64, 3), np.uint8),
            )
        )
        samples: dict[str, list[float]] = {name: [] for name in ("pyfeat", *detectors)}
        drift: dict[str, dict[str, float]] = {}
        for k in range(rounds + 1):  # the first warms up
            said = pyfeat.video(film)
            assert said["frames"] == said["rows"] == frames
            taken = {"pyfeat": said["seconds"]}
            for name, detector in detectors.items():
                time.sleep(0.3)
                start = time.perf_counter()
                assert len(detector.detect(film, detect_every=every)) == frames
                taken[name] = time.perf_counter() - start
            if k:
                for name, seconds in taken.items():
                    samples[name].append(seconds / frames)
        for name, detector in detectors.items():
            near = {r.index: r.boxes_xyxy_px for r in detector.stream(film, detect_every=every, columns=["facebox"])}
            apart = np.concatenate([np.abs(near[n] - real[n]) for n in real])
            drift[name] = {
                "box_corner_px_mean": float(apart.mean()), "box_corner_px_p95": float(np.percentile(apart, 95)),
                "box_corner_px_max": float(apart.max()),
                "box_width_px_mean": float(np.mean([b[0, 2] - b[0, 0] for b in real.values()])),
            }  # fmt: skip
        if append:
            before = json.loads((RESULTS / "video_every_fifth.json").read_text(encoding="utf-8"))
            assert [before[n] for n in ("frames", "every", "threads")] == [frames, every, threads]
            samples = {name: before["seconds_a_frame"][name] + s for name, s in samples.items()}
        middle = {name: statistics.median(s) for name, s in samples.items()}
        save("every_fifth", bundles[0].partition("=")[2], clip, {
            "frames": frames, "every": every, "threads": threads, "pyfeat": pyfeat.ready["versions"],
            "networks": {n: {r: [s["backend"], s["precision"]] for r, s in d.describe().items()} for n, d in detectors.items()},
            "seconds_a_frame": samples, "median_s": middle,
            "times_pyfeat": {name: middle["pyfeat"] / middle[name] for name in detectors}, "drift": drift,
        })  # fmt: skip


def looped(clip: Path, long: Path, frames: int) -> Path:
    """The clip's packets again and again, until there are so many frames."""
    with av.open(str(long), "w") as target:
        given, shift, stream = 0, 0, None
        while given < frames:
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                step = int(1 / video.average_rate / video.time_base)
                end = 0
                for packet in source.demux(video):
                    if packet.dts is None:
                        continue
                    end = max(end, packet.pts + step)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    target.mux(packet)
                    given += 1
                shift += end
    return long


def save(name: str, bundle: str, clip: Path, found: dict[str, Any]) -> None:
    """Write a result, and say what it comes to."""
    detector = Detector(bundle)
    said = {
        "bundle": {r: {k: d[k] for k in ("backend", "version", "precision")} for r, d in detector.describe().items()},
        "pipeline": detector.pipeline.name,
        "clip": clip.name,
        "machine": measure.machine(),
        "versions": installed(("fexport", "onnxruntime", "numpy", "av", "pyarrow", "opencv-python-headless")),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"video_{name}.json").write_text(json.dumps(said | found, indent=1) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {
                k: v
                for k, v in found.items()
                if k not in ("rss_bytes_by_frame", "seconds_a_frame", "cpu_s_a_frame", ".csv", ".parquet")
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
