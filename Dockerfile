# Two stages of one base: the first makes a venv of the lock file, every wheel checked by its hash; the second has that
# and the package, and nothing to install or build with. No RUN knows an architecture: any that has the wheels will do.
# By digest: --build-arg PYTHON=3.13.9-slim-bookworm@sha256:…, which `docker buildx imagetools inspect` names.
ARG PYTHON=3.13.9-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /srv
COPY requirements.lock ./
RUN python -m venv --without-pip /srv/venv && \
    python -m pip --python /srv/venv/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r requirements.lock && \
    rm requirements.lock
COPY gateway gateway
# The root file system is read-only at run time: bytecode is made here or never.
RUN ["python", "-m", "compileall", "-q", "gateway"]

FROM python:${PYTHON}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sse-gateway" \
      org.opencontainers.image.description="Fans the events of one Redis stream out to browsers' EventSource, with replay." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN ["python", "-m", "pip", "uninstall", "--yes", "--quiet", "--root-user-action=ignore", "pip"]
COPY --from=build /srv /srv
WORKDIR /srv
ENV PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/srv/venv/bin/python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('SSE_ADMIN_LISTEN', ':8081').rpartition(':')[2] + '/healthz', timeout=2)"]
ENTRYPOINT ["/srv/venv/bin/python", "-m", "gateway"]
