# The pipeline as an image: docs/containers.md.
FROM docker.io/library/python:3.11-slim-bookworm

# DVC's experiments need Git. Debian keeps one version of it only, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

# The packages come before the source, so that an edit of the source installs none of them again.
ARG REQUIREMENTS=requirements.txt
WORKDIR /catsdogs
ENV PATH=/opt/venv/bin:$PATH
COPY ${REQUIREMENTS} ./
RUN python3 -m venv /opt/venv && pip install --no-cache-dir --requirement "$REQUIREMENTS"

# `docker run --user` may name anybody: these let a user without an account write and have a name.
ENV HOME=/tmp USER=catsdogs
COPY --chown=1000:1000 . .
RUN pip install --no-cache-dir --no-deps --editable . && chown 1000:1000 .

USER 1000:1000
# There is no .git. Files are copied from the cache, as links into a volume lead nowhere outside.
# A new volume takes over the owner of the folder below it.
RUN dvc config --local core.no_scm true \
    && dvc config --local cache.type reflink,copy \
    && catsdogs plots-page \
    && mkdir -p .cache .dvc/cache mlflow
CMD ["dvc", "repro"]
