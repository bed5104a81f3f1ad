# Stand-ins for the public images that our Dockerfiles and compose.yaml name, because the tests pull none: Debian's
# packages on a root made by debootstrap, and this machine's Rust toolchain. `run` builds them.
ARG DEBIAN=pod-router-test/debian
ARG TOOLCHAIN=pod-router-test/toolchain

# hadolint ignore=DL3006
FROM ${TOOLCHAIN} AS toolchain

# hadolint ignore=DL3006
FROM ${DEBIAN} AS rust
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=toolchain / /usr/local/

# hadolint ignore=DL3006
FROM ${DEBIAN} AS node
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends nodejs npm && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM ${DEBIAN} AS redis
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM ${DEBIAN} AS haproxy
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*
