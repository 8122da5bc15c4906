# Two images out of one file: `api` (no torch, no Ray) and `worker` (everything).
#   docker build --target api .        docker build --target worker .
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 LIMBECK_HOME=/var/lib/limbeck
RUN useradd --create-home --uid 1000 limbeck \
 && install --directory --owner limbeck /var/lib/limbeck /var/lib/limbeck/artifacts /var/lib/limbeck/cache
WORKDIR /source
# Without the packages this installs the requirements only: a layer that a change of our code leaves as it is.
COPY pyproject.toml constraints.txt README.md LICENSE ./

FROM base AS api
RUN pip install --constraint constraints.txt ".[server]"
COPY search search
COPY service service
COPY workers workers
COPY limbeck limbeck
COPY migrations migrations
RUN pip install --no-deps --force-reinstall .
USER limbeck
WORKDIR /home/limbeck
EXPOSE 8300
CMD ["python", "-m", "service", "serve"]

FROM base AS worker
RUN pip install --constraint constraints.txt ".[worker]"
COPY search search
COPY service service
COPY workers workers
COPY limbeck limbeck
COPY migrations migrations
RUN pip install --no-deps --force-reinstall .
USER limbeck
WORKDIR /home/limbeck
CMD ["python", "-m", "workers"]
