#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Cuts links of replicas (test/netns). The tests get a network, mount and
# process namespace of their own, in which they make others: this machine's
# network stays as it is, and all that they make and start vanishes with them, also
# if they are killed. Arguments go to `go test`.
set -eu
cd "$(dirname "$0")/.."

missing=
# lacks WHAT notes what is not there.
lacks() { missing="$missing
  $1"; }
[ "$(uname -s)" = Linux ] || lacks 'Linux: only it has network namespaces'
command -v ip >/dev/null || lacks 'ip (Debian package: iproute2)'
command -v unshare >/dev/null || lacks 'unshare (Debian package: util-linux)'
if [ -z "${KUBEBUILDER_ASSETS-}" ]; then
	lacks 'etcd and kube-apiserver: run make test-netns, or set KUBEBUILDER_ASSETS to what make controlplane prints'
else
	for program in etcd kube-apiserver; do
		[ -x "$KUBEBUILDER_ASSETS/$program" ] || lacks "$KUBEBUILDER_ASSETS/$program, which make controlplane gets"
	done
fi

# inside runs a command in namespaces of its own. The command that it names is
# their first process, so they end with it.
inside='unshare --net --mount --pid --fork --kill-child --mount-proc'
# `ip netns` keeps names in /run, and in no other place: in there, /run is one of
# our own, and so are the temporary files. A proxy is out of reach.
prepare='mount -t tmpfs tmpfs /run && mkdir /run/tmp && export TMPDIR=/run/tmp &&
	unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy'
if [ -z "$missing" ]; then
	$inside true 2>/dev/null ||
		lacks 'the right to make namespaces: be root, or have CAP_SYS_ADMIN and CAP_NET_ADMIN (a container needs both, and no seccomp profile that forbids unshare and mount)'
fi
if [ -z "$missing" ]; then
	said=$($inside sh -c "$prepare"' && ip netns add probe &&
		ip link add probe type bridge && ip link add one type veth peer name two netns probe' 2>&1) ||
		lacks "a kernel with bridge and veth, and the right to make them (CAP_NET_ADMIN); ip says: $said"
fi
if [ -n "$missing" ]; then
	echo "test-netns: it cuts real links between network namespaces, for which is missing:$missing" >&2
	exit 1
fi

# All is built before, where there is a network to get modules by.
go build -o /dev/null ./cmd/manager
race=
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v cc >/dev/null; then race=-race; fi
# Ten minutes are three times what it takes.
exec go test $race -tags netns -timeout=10m -count=1 -v -exec "$inside sh -c '$prepare && exec \"\$0\" \"\$@\"'" ./test/netns \
	-ginkgo.no-color "$@"
