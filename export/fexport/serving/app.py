"""The service: one process, one detector, a bounded queue; FastAPI routes and Prometheus counters.

Nothing of a request is kept. What does not fit is refused: a body over the limit with 413, a full queue with 429. A body that does
not come is given up (408), so that nobody holds the service by sending slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import math
import time
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prometheus_client as prometheus
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fexruntime import Detector
from fexruntime.errors import FexportError, InputError
from fexruntime.fex import Fex
from fexruntime.options import OptionFields
from fexruntime.overlay import draw
from fexruntime.sources.images import decode_image
from fexruntime.sources.tiff import UPRIGHT, orientation

_log = logging.getLogger("fexport.serve")
ARROW = "application/vnd.apache.arrow.stream"
PAGE = Path(__file__).with_name("page.html")
GONE = 499
"""The status in the log of a request whose client went away: there is nobody to answer."""
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process takes on."""

    body_bytes: int = 20_000_000
    """Of an encoded image."""
    queue: int = 16
    """Requests that wait or run; the next one is answered 429."""
    workers: int = 1
    """Requests that run at a time (the detector's workspaces)."""
    body_s: float = 20.0
    """Seconds in which a body must have come; later: 408."""


class Full(Exception):
    """The queue is full."""


class TooLarge(Exception):
    """A body is over the limit."""


class TooSlow(Exception):
    """A body did not come in time."""


class Counters:
    """What /metrics shows, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        mine: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus.Counter("fexport_requests", "Requests answered", ["route", "status"], **mine)
        self.faces = prometheus.Counter("fexport_faces", "Faces read", **mine)
        self.seconds = prometheus.Histogram(
            "fexport_request_seconds", "Whole requests", ["route"], buckets=BUCKETS, **mine
        )
        self.stage = prometheus.Counter("fexport_stage_seconds", "Time in each stage", ["stage"], **mine)
        self.waiting = prometheus.Gauge("fexport_queue", "Requests that wait or run", **mine)

    def observe(self, stage: str, seconds: float, items: int) -> None:
        """The detector's observer."""
        self.stage.labels(stage).inc(seconds)


class Service:
    """The detector, its queue and its threads."""

    def __init__(self, detector: Detector, limits: Limits, counters: Counters) -> None:
        self.detector, self.limits, self.counters = detector, limits, counters
        self.ready = False
        self._waiting = 0
        self._held_bytes = 0
        self._pool = ThreadPoolExecutor(limits.workers, "fexport-serve")

    async def answer(self, request: Request, work: Callable[[bytes], Any]) -> Any:
        """What the work makes of the request's body, in one of the threads. Raises Full, TooLarge, TooSlow, InputError if there is no body.

        The bodies of all requests, those that are still coming too, are never more than a full queue of the largest.
        """
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > self.limits.body_bytes:
            raise TooLarge
        data = bytearray()
        try:
            try:
                await asyncio.wait_for(self._receive(request, data), self.limits.body_s)
            except asyncio.TimeoutError:
                raise TooSlow from None
            if not data:
                raise InputError("the body is empty: send the bytes of an image")
            return await self._run(lambda: work(bytes(data)))
        finally:
            self._held_bytes -= len(data)

    async def _receive(self, request: Request, data: bytearray) -> None:
        """The body into `data`. One that finds no room is heard to its end and thrown away: who is cut off does not read the answer."""
        full = False
        async for block in request.stream():
            if len(data) + len(block) > self.limits.body_bytes:
                raise TooLarge
            full = full or self._held_bytes + len(block) > self.limits.queue * self.limits.body_bytes
            if not full:
                data += block
                self._held_bytes += len(block)
        if full:
            raise Full

    async def _run(self, work: Callable[[], Any]) -> Any:
        """The work's answer, from one of the threads. Raises Full at once where the queue is."""
        if self._waiting >= self.limits.queue:
            raise Full
        self._waiting += 1
        self.counters.waiting.set(self._waiting)
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # counted down when the work is done, not when its caller goes away: it holds its thread until then
        future.add_done_callback(self._done)
        return await future

    def _done(self, future: Any) -> None:
        self._waiting -= 1
        self.counters.waiting.set(self._waiting)

    def read(self, data: bytes, options: OptionFields) -> Fex:
        """Rows of one encoded image."""
        fex = self.detector.detect(data, **options)
        self.counters.faces.inc(int((fex["FaceScore"] > 0).sum()) if "FaceScore" in fex else 0)
        return fex

    def drawn(self, data: bytes, options: OptionFields) -> bytes:
        """One encoded image with its faces drawn, as PNG."""
        import cv2

        pixels = decode_image(data, "the image", options.get("exif", False), self.detector.max_pixels)
        (result,) = self.detector.stream(pixels, **options)
        row = self.detector.pipeline
        picture = draw(pixels, result, self.detector.bundle.stand_ins, row.pitch_up, row.labels)
        return bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1])

    def close(self) -> None:
        """Wait for what runs, then release the detector."""
        self.ready = False
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.detector.close()


def noted(data: bytes, exif: bool) -> dict[str, str]:
    """{"note": what the sender of a picture should hear of it}, if there is anything: who sees the log is somebody else."""
    if exif or orientation(data) == UPRIGHT:
        return {}
    return {
        "note": "the picture has an orientation tag and was read as it is stored, as py-feat reads it: ?exif=true turns it"
    }


def as_objects(fex: Fex) -> list[dict[str, Any]]:
    """Rows for JSON: a number that is none becomes null."""
    return [{c: _plain(v) for c, v in zip(fex.columns, row, strict=True)} for row in fex.rows()]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_arrow(fex: Fex) -> bytes:
    """Rows as an Arrow IPC stream."""
    import pyarrow as pa
    from pyarrow import ipc

    types = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "text": pa.string()}
    schema = pa.schema([(c, types[fex.dtypes[c]]) for c in fex.columns])
    cells = [
        pa.array(list(fex[c]) if fex.dtypes[c] == "text" else fex[c], types[fex.dtypes[c]], from_pandas=True)
        for c in fex.columns
    ]
    table, out = pa.Table.from_arrays(cells, schema=schema), io.BytesIO()
    with ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def make_app(detector: Detector, limits: Limits, counters: Counters) -> FastAPI:
    """The application; the detector is warmed up when it starts and closed when it ends."""
    service = Service(detector, limits, counters)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.get_running_loop().run_in_executor(None, detector.warmup)
        service.ready = True
        try:
            yield
        finally:
            service.close()

    app = FastAPI(title="fexport", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service

    @app.middleware("http")
    async def counted(request: Request, following: Any) -> Response:
        start, said = time.perf_counter(), {}
        try:
            response: Response = await following(request)
        except ClientDisconnect:
            response = Response(status_code=GONE)
        except Exception as error:  # an error of ours: a line of the log like any other, and a sentence
            response = _error(500, f"an error of fexport's own, {type(error).__name__}: the log of the service has it")
            said = {"error": "".join(traceback.format_exception(error))}
        seconds = time.perf_counter() - start
        found = request.scope.get("route")
        route = getattr(
            found, "path", "other"
        )  # not the address that was asked for: anybody may make up a million of them
        counters.requests.labels(route, str(response.status_code)).inc()
        counters.seconds.labels(route).observe(seconds)
        _log.info(json.dumps({"route": route, "status": response.status_code, "ms": round(1e3 * seconds, 1)} | said))
        return response

    @app.exception_handler(FexportError)
    async def refused(request: Request, error: Exception) -> Response:
        return _error(400 if isinstance(error, InputError) else 500, str(error))

    @app.exception_handler(Full)
    async def full(request: Request, error: Exception) -> Response:
        response = _error(429, f"{limits.queue} requests wait already: try again in a moment")
        response.headers["Retry-After"] = "1"
        return response

    @app.exception_handler(TooLarge)
    async def too_large(request: Request, error: Exception) -> Response:
        return _error(413, f"the body is larger than {limits.body_bytes} bytes: send a smaller image")

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = error.errors()[0]
        return _error(400, f"{found['loc'][-1]}={found['input']!r:.100} cannot be: {found['msg']}")

    @app.exception_handler(TooSlow)
    async def too_slow(request: Request, error: Exception) -> Response:
        return _error(408, f"the body did not come within {limits.body_s:g} s: send it at once")

    @app.exception_handler(HTTPException)
    async def elsewhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = _error(error.status_code, f"{error.detail}: {request.method} {request.url.path}")
        response.headers.update(error.headers or {})
        return response

    @app.post("/v1/faces")
    async def faces(request: Request, columns: str | None = None, exif: bool = False) -> Response:
        asked = None if columns is None else [c.strip() for c in columns.split(",")]
        options: OptionFields = {"columns": asked, "exif": exif}
        encode = as_arrow if ARROW in request.headers.get("accept", "") else None

        def read(data: bytes) -> tuple[Any, dict[str, str]]:
            return (encode or as_objects)(service.read(data, options)), noted(data, exif)

        answer, note = await service.answer(request, read)
        if encode:
            return Response(answer, media_type=ARROW, headers=_as_headers(note))
        made_up = list(detector.bundle.stand_ins)
        return JSONResponse({"rows": answer} | ({"stand_in_weights": made_up} if made_up else {}) | note)

    @app.post("/v1/overlay")
    async def overlay(request: Request, exif: bool = False) -> Response:
        def draw(data: bytes) -> tuple[bytes, dict[str, str]]:
            return service.drawn(data, {"exif": exif}), noted(data, exif)

        picture, note = await service.answer(request, draw)
        return Response(picture, media_type="image/png", headers=_as_headers(note))

    @app.get("/v1/bundle")
    async def bundle() -> Response:
        manifest = detector.bundle.manifest
        said = {"pipeline": manifest.pipeline, "contract": manifest.contract, "networks": detector.describe()}
        return JSONResponse(said | {"stand_in_weights": list(detector.bundle.stand_ins)})

    @app.get("/healthz")
    async def health() -> Response:
        return PlainTextResponse("alive\n")

    @app.get("/readyz")
    async def readiness() -> Response:
        return PlainTextResponse("ready\n") if service.ready else PlainTextResponse("not ready\n", 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prometheus.generate_latest(counters.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return app


def _as_headers(note: dict[str, str]) -> dict[str, str]:
    return {f"Fexport-{name.title()}": text for name, text in note.items()}


def _error(status: int, said: str) -> JSONResponse:
    return JSONResponse({"error": said}, status)
