# The image of pod-router: one static binary, the certificate authorities for rediss://, and nothing else.
#
#   docker build -t pod-router --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker buildx build --platform linux/amd64,linux/arm64 -t pod-router .
#
# It needs BuildKit, the builder of Docker since 23 (before: DOCKER_BUILDKIT=1). The C library is glibc, linked
# statically: the one the tests run with. Since 2.34 its resolver needs no shared objects for /etc/hosts and DNS.

# Any image with cargo, rustc, a C compiler and the certificate authorities of ca-certificates.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=scratch
# `dev` leaves the optimisation out: for trying the image itself.
ARG PROFILE=release

# hadolint ignore=DL3006
FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS dependencies
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# An image for another architecture is cross-compiled: under emulation the optimised build would take hours.
ARG TARGETARCH
# hadolint ignore=DL3008
RUN host="$(rustc -vV | sed -n 's/^host: //p')"; \
    case "${TARGETARCH:-}" in \
        amd64) target=x86_64-unknown-linux-gnu ;; \
        arm64) target=aarch64-unknown-linux-gnu ;; \
        "") target="$host" ;; \
        *) echo "no build for $TARGETARCH" >&2; exit 1 ;; \
    esac; \
    echo "$target" >/target; \
    if [ "$target" != "$host" ]; then \
        machine="${target%%-*}"; \
        if ! command -v "$machine-linux-gnu-gcc" >/dev/null; then \
            apt-get update; \
            apt-get install -y --no-install-recommends \
                "gcc-$(echo "$machine" | tr _ -)-linux-gnu" "libc6-dev-$TARGETARCH-cross"; \
            rm -rf /var/lib/apt/lists/*; \
        fi; \
        if command -v rustup >/dev/null; then rustup target add "$target"; fi; \
    fi

# The profile says which code is run how often, and is worth a tenth of the CPU: `benches/pgo` renews it. It knows functions
# by names that change with the target, the compiler's version and each setting of cargo's profile: it is of use for x86-64 and
# the image above only, and what is not in Cargo.toml has to be a flag of the compiler.
ENV RUSTFLAGS="-C target-feature=+crt-static -C strip=debuginfo -C profile-use=/build/deploy/pod-router.profdata" \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

ARG PROFILE
WORKDIR /build

# The dependencies are a layer of their own: it is built again only when Cargo.toml, Cargo.lock or the profile changes.
COPY Cargo.toml Cargo.lock ./
COPY deploy/pod-router.profdata deploy/
RUN mkdir src; echo 'fn main() {}' >src/main.rs; touch src/lib.rs; \
    cargo build --locked --profile "$PROFILE" --target "$(cat /target)" --bin pod-router

FROM dependencies AS build
ARG PROFILE
ARG REVISION=unknown
COPY src src
# The sources are older than what was built from their stand-ins above: without the touch cargo would keep that.
RUN touch src/main.rs src/lib.rs; \
    POD_ROUTER_REVISION="$REVISION" \
        cargo build --locked --profile "$PROFILE" --target "$(cat /target)" --bin pod-router; \
    mkdir /out; cp target/*-linux-gnu/*/pod-router /out/

# hadolint ignore=DL3006
FROM ${RUNTIME_IMAGE}
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/pod-router /pod-router

ARG REVISION=unknown
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="pod-router" \
      org.opencontainers.image.description="Sends every request that names a room to the one pod that owns it" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# Numeric, for runAsNonRoot; the file system may be read-only: nothing is ever written.
USER 65532:65532
EXPOSE 3001 9901
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/pod-router", "health"]
ENTRYPOINT ["/pod-router"]
CMD ["serve"]
