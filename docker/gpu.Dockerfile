# x86 with an NVIDIA GPU, ONNX Runtime's CUDA provider. docker build -f docker/gpu.Dockerfile -t fexport:gpu . ; docker run --gpus all …
# CUDA and cuDNN are those that ONNX Runtime's wheel names, whichever pip chooses: CUDA 13 today, for drivers from 580 on
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY runtime runtime
COPY export export
COPY calibration calibration
# the wheel brings its pages along
COPY docs docs
COPY benchmarks benchmarks
COPY examples examples
RUN pip install --no-cache-dir --prefix=/installed ".[gpu,tables,video,serve]" "onnxruntime-gpu[cuda,cudnn]"

FROM python:3.12-slim
COPY --from=build /installed /usr/local
# a volume that is put there first takes the folder's owner
RUN useradd --create-home --uid 10001 fexport \
 && install -d -o fexport -g fexport /home/fexport/cache
USER 10001
ENV FEXPORT_CACHE=/home/fexport/cache NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["fexport"]
CMD ["run", "--help"]
