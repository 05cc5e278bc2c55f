#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Runs the tests of every module in MODULES, with the race detector where there
# is a C compiler, and ends by saying how many ran. Arguments go to `go test`.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)

# Modules that have tests; those that pin tools have none.
modules=${MODULES-". cmd/kubectl-chatrun hack/image hack/licences test/bench test/docs test/metrics test/oracle test/plugin"}

race=-race
if [ "$(go env CGO_ENABLED)" != 1 ] ||
	! echo 'int main(void) { return 0; }' | $(go env CC) -x c -o /dev/null - 2>/dev/null; then
	race=
	echo 'test: no working C compiler, so without the race detector' >&2
fi

events=$(mktemp -d)
trap 'rm -rf "$events"' EXIT
failed=
# run NAME WHICH [FLAG…] tests the packages of the module here that `grep WHICH` finds,
# if there are any. Each has half an hour.
run() {
	name=$1 which=$2
	shift 2
	all=$(go list ./...) || return 1
	# shellcheck disable=SC2086 # several words
	packages=$(echo "$all" | grep $which) || return 0
	# shellcheck disable=SC2086 # the names hold no spaces
	go tool -modfile="$root/hack/tools/go.mod" gotestsum --format=pkgname --hide-summary=skipped \
		--jsonfile="$events/$name.json" -- $race -timeout=30m $fresh "$@" $packages
}
for module in $modules; do
	echo "test: module $module" >&2
	name=$(echo "$module" | tr ./ __)
	# Go knows of no file outside of a module that its tests read or build: what these
	# found the last time says nothing.
	fresh=
	case $module in hack/image | test/docs | test/metrics | test/plugin) fresh=-count=1 ;; esac
	(cd "$root/$module" && run "$name" '-v /operator/test/' "$@") || failed="$failed $module"
	# The suites run whole control planes and managers, and some of what they check is
	# how long something takes: one at a time.
	(cd "$root/$module" && run "$name.suites" /operator/test/ -p=1 "$@") || failed="$failed $module"
done

# Of each test there is one of these events; those of packages name no test.
count() {
	cat "$events"/*.json 2>/dev/null | grep '"Test":' | grep -c "\"Action\":\"$1\"" || true
}
passed=$(count pass) broken=$(count fail) skipped=$(count skip)
if [ -n "$failed" ]; then
	echo "test: failed in:$failed" >&2
elif [ "$passed" -eq 0 ]; then
	echo 'test: no test ran' >&2
	failed=none
fi
echo "$passed passed, $broken failed, $skipped skipped"
[ -z "$failed" ]
