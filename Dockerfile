# A small image: one program, the libraries that it is linked to, and the certificates that it trusts. No shell.
# tests/cluster/node/image.py writes the same without a builder; a test compares user and entrypoint with the manifests.
#   docker build -t wade:0.1.0 .

FROM rust:1.95-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin wade && strip -o /wade target/release/wade
# The image's whole content, in one place.
RUN install -d /out && install -d -m 1777 /out/tmp \
    && install -D -m 755 /wade /out/wade \
    && ldd /wade | grep -o '/[^ ]*' | xargs -I FILE cp -L --parents FILE /out \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt \
    && echo 'wade:x:65532:65532::/:/wade' > /out/etc/passwd

FROM scratch
COPY --from=build /out /
ENV PATH=/
USER 65532:65532
EXPOSE 8443 9090
ENTRYPOINT ["/wade"]
