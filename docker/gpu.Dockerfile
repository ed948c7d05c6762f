# x86 with an NVIDIA GPU, ONNX Runtime's CUDA provider. docker build -f docker/gpu.Dockerfile -t fexport:gpu . ; docker run --gpus all …
FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/fexport
ENV PATH=/opt/fexport/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY runtime runtime
COPY export export
COPY calibration calibration
# the wheel brings its pages along
COPY docs docs
COPY benchmarks benchmarks
COPY examples examples
# a volume that is put there first takes the cache folder's owner
RUN pip install --no-cache-dir ".[gpu,tables,video,serve]" \
 && useradd --create-home --uid 10001 fexport \
 && install -d -o fexport -g fexport /home/fexport/cache
USER 10001
ENV FEXPORT_CACHE=/home/fexport/cache
ENTRYPOINT ["fexport"]
CMD ["run", "--help"]
