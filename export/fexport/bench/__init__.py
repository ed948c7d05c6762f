"""`fexport bench`: how fast a bundle is on this machine, against py-feat itself if asked for.

`workload` (what is run), `measure` (samples and their statistics), `cold` (start-up, memory, install size),
`pyfeat` and `pyfeat_worker` (the other side, in its own environment), `report` (JSON, Markdown, plots).
"""
