#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Runs what is in the image as the Deployment says: its user, a root that is read-only
# and holds nothing else, its ports. For that the test gets a network and a mount
# namespace of its own; all that it starts ends with it. Arguments go to `go test`.
set -eu
cd "$(dirname "$0")/.."

missing=
# lacks WHAT notes what is not there.
lacks() { missing="$missing
  $1"; }
[ "$(uname -sm)" = 'Linux x86_64' ] || lacks 'Linux on x86-64: the image is run as it is'
command -v ip >/dev/null || lacks 'ip (Debian package: iproute2)'
command -v unshare >/dev/null || lacks 'unshare (Debian package: util-linux)'
[ -x "${KUBEBUILDER_ASSETS-}/kube-apiserver" ] || lacks 'etcd, kube-apiserver and kubectl: run make test-image, or set KUBEBUILDER_ASSETS to what make controlplane prints'
inside='unshare --net --mount --pid --fork --kill-child --mount-proc'
# The pod's address; the API server wants one as well that is not loopback's.
prepare='ip link set lo up && ip link add pod type bridge && ip addr add 192.0.2.10/24 dev pod &&
	ip link set pod up && ip route add default dev pod && unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy'
if [ -z "$missing" ]; then
	said=$($inside sh -c "$prepare" 2>&1) ||
		lacks "the right to make namespaces and a bridge in them (be root, or have CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_SETUID): $said"
fi
if [ -n "$missing" ]; then
	echo "test-image: it runs the image as a container would, for which is missing:$missing" >&2
	exit 1
fi

cd hack/image
# All is built before, where there is a network to get modules by.
for arch in amd64 arm64; do
	(cd ../.. && CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false '-ldflags=-s -w' -o /dev/null ./cmd/manager)
done
exec go test -tags image -count=1 -timeout=10m -run TestRunsAsTheDeploymentSays -exec "$inside sh -c '$prepare && exec \"\$0\" \"\$@\"'" "$@" .
