# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# The manager and nothing else: what distroless' static images hold beside is either
# in the binary (the authorities of certificates) or not needed. `make image` makes
# the same without Docker; hack/image checks that both agree.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS=linux
ARG TARGETARCH=amd64
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY internal internal
RUN CGO_ENABLED=0 GOFLAGS=-mod=readonly GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags='-s -w' -o /out/manager ./cmd/manager

FROM scratch
COPY hack/image/rootfs/ /
COPY --chmod=0555 --from=build /out/manager /manager
USER 65532:65532
EXPOSE 8081/tcp 8090/tcp 8091/tcp 8443/tcp
WORKDIR /
LABEL org.opencontainers.image.title="chatrun-operator" \
      org.opencontainers.image.description="Runs LLM chats as custom resources" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/manager"]
