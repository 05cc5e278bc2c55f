#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Uses the page of a manager in a browser (test/page). Arguments go to `go test`;
# with -update it writes the pictures of docs/images.
set -eu
cd "$(dirname "$0")/.."

missing=
# need COMMAND PACKAGE notes what is not there.
need() { command -v "$1" >/dev/null || missing="$missing
  $1 (Debian package: $2)"; }
need npm npm
need chromium chromium
if ! command -v node >/dev/null || [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then
	missing="$missing
  node, version 20 or later (Debian package: nodejs)"
fi
if [ -n "$missing" ]; then
	echo "test-page: it opens a real browser, and lacks:$missing" >&2
	exit 1
fi

cd test/page
said=$(npm ci --no-audit --no-fund 2>&1) || {
	echo "$said" >&2
	exit 1
}
race=
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v cc >/dev/null; then race=-race; fi
# -v: a scenario says what it measured.
exec go test $race -timeout=15m -count=1 -v . "$@"
