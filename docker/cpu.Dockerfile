# fexport serve on a CPU. From the repository's root: docker build -f docker/cpu.Dockerfile -t fexport:cpu .
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
RUN pip install --no-cache-dir --prefix=/installed ".[cpu,tables,video,serve]"

FROM python:3.12-slim
COPY --from=build /installed /usr/local
# a volume that is put there first takes the folder's owner
RUN useradd --create-home --uid 10001 fexport \
 && install -d -o fexport -g fexport /home/fexport/cache
USER 10001
ENV FEXPORT_CACHE=/home/fexport/cache
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=3)"]
ENTRYPOINT ["fexport"]
CMD ["serve", "edge", "--host", "0.0.0.0", "--port", "8000"]
