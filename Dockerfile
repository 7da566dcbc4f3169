# Builds the module and copies only the binary to a small base image.
FROM rust:1.95-bookworm AS build
# librdkafka is built from source; TLS and compression are libraries of the system.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libssl-dev pkg-config zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches outlive the layer, so a changed line needs no full build. A cache is not part of the layer,
# hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p mod-patron-blocks \
 && cp target/release/mod-patron-blocks /mod-patron-blocks

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /mod-patron-blocks /usr/local/bin/mod-patron-blocks
# A numeric user: only then can Kubernetes check that the user is not root.
USER 10001:10001
EXPOSE 8081
ENTRYPOINT ["mod-patron-blocks"]
CMD ["serve"]
