# Jetson, JetPack 6.2 (TensorRT 10.3). On the device: docker build -f docker/jetson.Dockerfile -t fexport:jetson .
# docker run --runtime nvidia … ; the engines are made on the device: fexport engines BUNDLE
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-libnvinfer \
 && rm -rf /var/lib/apt/lists/*
# JetPack's own tensorrt module is the system's
RUN python3 -m venv --system-site-packages /opt/fexport
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
# a volume that is put there first takes the folder's owner
RUN pip install --no-cache-dir ".[tables,video,serve]" \
 && useradd --create-home --uid 10001 --groups video fexport \
 && install -d -o fexport -g fexport /home/fexport/cache
USER 10001
ENV FEXPORT_CACHE=/home/fexport/cache
ENTRYPOINT ["fexport"]
CMD ["doctor"]
