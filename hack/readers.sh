#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Lets real readers read real runs (test/readers), after the tests of the
# TypeScript client that is one of them. Arguments go to `go test`.
set -eu
cd "$(dirname "$0")/.."

missing=
# need COMMAND PACKAGE notes what is not there.
need() { command -v "$1" >/dev/null || missing="$missing
  $1 (Debian package: $2)"; }
need curl curl
need npm npm
need chromium chromium
need nginx nginx
if ! command -v node >/dev/null || [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then
	missing="$missing
  node, version 20 or later (Debian package: nodejs)"
fi
if [ -n "$missing" ]; then
	echo "test-readers: it reads with real programs, of which are missing:$missing" >&2
	exit 1
fi

# quiet runs a command, and shows what it said only if it fails.
quiet() {
	said=$("$@" 2>&1) || {
		echo "$said" >&2
		return 1
	}
}

echo 'readers: the client in web/' >&2
for dir in web test/readers; do
	(cd "$dir" && quiet npm ci --no-audit --no-fund)
done
(cd web && quiet npm run build && npm test --silent)

echo 'readers: against a manager' >&2
race=
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v cc >/dev/null; then race=-race; fi
cd test/readers
# Without the name of a package, go test shows what the tests say in the end.
# Most of what they do is wait to come back, so many may at once.
exec go test $race -timeout=15m -count=1 -parallel=4 "$@"
