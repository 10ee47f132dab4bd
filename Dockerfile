# The default run, without a GPU:
#
#   docker build -t dfusion .
#   docker run --rm -v "$PWD/project:/project" dfusion              # dfusion init, then dvc repro; goes on where it ended
#   docker run --rm -v "$PWD/project:/project" dfusion dfusion report
#
# With an NVIDIA GPU: build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130, run with --gpus all.
FROM python:3.12-slim

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# pyproject.toml bounds the versions.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "torch>=2.11" torchvision --index-url "$TORCH_INDEX"

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY dfusion_core dfusion_core
COPY stages stages
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[s3]" && rm -rf /src/*

# Any user may run it (docker run --user): what is written outside of /project goes to /tmp.
ENV HOME=/tmp USER=dfusion \
    DVC_NO_ANALYTICS=1 \
    GIT_AUTHOR_NAME=dfusion GIT_AUTHOR_EMAIL=dfusion@localhost \
    GIT_COMMITTER_NAME=dfusion GIT_COMMITTER_EMAIL=dfusion@localhost
RUN git config --system --add safe.directory /project

WORKDIR /project
VOLUME /project
CMD ["sh", "-c", "dfusion init . && dvc repro"]
