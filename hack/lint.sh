#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Runs golangci-lint (with the API linter compiled in) on every module that has
# code: `lint.sh run`, or `lint.sh fmt` to format.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)

status=0
for mod in $(find . -name go.mod -not -path './hack/*tools/*' \
	-not -path './hack/controlplane/*' -not -path './hack/kubescore/*' | sort); do
	(cd "$(dirname "$mod")" && go tool -modfile="$root/hack/tools/go.mod" golangci-lint-kube-api-linter \
		"$@" --config="$root/.golangci.yml" ./...) || status=1
done
exit $status
