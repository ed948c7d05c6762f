"""An RTSP server for tests, GStreamer's: python3 rtsp_server.py PORT FILM.mp4, serves an H.264 film at rtsp://127.0.0.1:PORT/film.

Run with a Python that has GStreamer's bindings (Debian: python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good).
Frames come at the film's own rate, and the stream ends with the film.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

port, film = sys.argv[1:]
Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f'( filesrc location="{film}" ! qtdemux ! rtph264pay name=pay0 pt=96 )')
server.get_mount_points().add_factory("/film", factory)
if not server.attach(None):
    sys.exit(f"cannot listen at port {port}")
sys.stdout.write("ready\n")
sys.stdout.flush()
GLib.MainLoop().run()
