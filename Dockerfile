# syntax=docker/dockerfile:1
# The image of cluster/kubernetes: Ray, pcace_dist and the examples, as a user without rights.
#
#   docker build --target cuda -t REGISTRY/pcace-dist:0.2.0-cuda .
#   docker build --target cpu --build-arg TORCH_INDEX=URL -t REGISTRY/pcace-dist:0.2.0-cpu .
#
# The wheels of torch that pip finds by default bring CUDA's libraries; the host brings the driver. TORCH_INDEX is PyTorch's
# index of wheels for processors alone (pytorch.org, "Get Started"): without it the CPU image works as well, but is large.
ARG PYTHON=3.11.14-slim-bookworm

# -- build: everything is installed into /opt/venv
FROM python:${PYTHON} AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY cluster/image/install.sh cluster/image/install.sh
# the pinned requirements first: this layer lasts until they change
RUN sh cluster/image/install.sh requirements /opt/venv
COPY pcace_dist pcace_dist
RUN sh cluster/image/install.sh package /opt/venv

# -- what both variants share
FROM python:${PYTHON} AS base
# wget: KubeRay's probes use it; procps: `ray stop` in a pod's shell
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --user-group ray
COPY --from=build /opt/venv /opt/venv
COPY jobs /opt/pcace/jobs
COPY examples /opt/pcace/examples
COPY cluster/drain.py /opt/pcace/cluster/drain.py
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0
WORKDIR /opt/pcace
USER 1000:1000
CMD ["pcace", "--help"]

FROM base AS cpu

# last, so that it is what a plain `docker build` makes
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
