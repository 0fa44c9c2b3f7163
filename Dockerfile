# The image of Homeport's agent and controller, for amd64 and arm64:
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v0.1.0 -t REPOSITORY:TAG --push .
#
# hack/image-layout.sh makes the same files without Docker; a test compares the two.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG TARGETARCH
ARG VERSION=unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY pkg pkg
# BPF objects are checked in: no clang is needed.
RUN CGO_ENABLED=0 GOOS=linux GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/bridge-agent ./cmd/cni-plugin ./cmd/homeportctl

FROM debian:12-slim
# iptables in both variants, nft and legacy: the host's own rules are in either, and
# there the agent reads FORWARD and has its chains (hostFirewall). nft shows what else
# can drop.
RUN apt-get update && apt-get install -y --no-install-recommends iptables nftables && rm -rf /var/lib/apt/lists/*
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Homeport" \
      org.opencontainers.image.description="KubeVirt VMs on the VLANs that they had, with their firewall" \
      org.opencontainers.image.source="https://github.com/homeport-cni/homeport" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
# The plugin lies beside the agent, which installs it from there.
COPY --from=build /out/bridge-agent /usr/local/bin/bridge-agent
COPY --from=build /out/cni-plugin /usr/local/bin/cni-plugin
COPY --from=build /out/homeportctl /usr/local/bin/homeportctl
COPY LICENSE /usr/share/doc/homeport/LICENSE
ENTRYPOINT ["/usr/local/bin/bridge-agent"]
