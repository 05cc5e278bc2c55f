#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Checks what a commit has to keep: generated code current, code formatted and
# linted, shell scripts readable, every go.mod tidy. It edits nothing, asks git
# nothing, and goes on after a failure, so that one run shows all of them.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM

failures=
# check NAME COMMAND… runs a check, and shows its output only if it fails.
check() {
	name=$1
	shift
	if "$@" >"$scratch/out" 2>&1; then
		echo "ok    $name"
	else
		echo "FAIL  $name"
		sed 's/^/      /' "$scratch/out"
		failures="$failures
      $name"
	fi
}

modules=$(find . -name go.mod -not -path './.*' -not -path '*/node_modules/*' | sort)
packages=$(find . -name go.mod -not -path './.*' -not -path '*/node_modules/*' -not -path './hack/*tools/*' \
	-not -path './hack/controlplane/*' -not -path './hack/kubescore/*' | sort)

# generated writes everything anew in a copy of the tree, so files that nobody
# committed yet count, and compares. The old output goes first: what is no
# longer generated has to go as well.
generated() {
	mkdir "$scratch/tree" &&
		tar -cf - --exclude=./.git --exclude=./bin --exclude=./.demo --exclude=./web/build --exclude=./web/dist \
			--exclude=node_modules . | tar -xf - -C "$scratch/tree" || return 1
	(
		cd "$scratch/tree" || exit 1
		rm -f config/crd/bases/*.yaml config/rbac/role.yaml docs/failures.md docs/reference.md web/src/events.ts internal/page/assets/* dist/install.yaml config/namespaced/watched/role.yaml
		rm -rf charts/chatrun-operator/files
		find . -name 'zz_generated.deepcopy.go' -exec rm {} +
		make --no-print-directory generate manifests dist
	) || return 1
	# The next look leaves out what builds write, by name, and so this one.
	cmp dist/install.yaml "$scratch/tree/dist/install.yaml" || {
		echo 'To mend it: make dist'
		return 1
	}
	diff -ruN -x .git -x bin -x .demo -x build -x dist -x node_modules "$root" "$scratch/tree" || {
		echo 'To mend it: make generate manifests dist'
		return 1
	}
}

formatted() {
	files=$(find . -name '*.go' -not -path './.*' -not -path '*/node_modules/*')
	[ -n "$files" ] || { echo 'no Go file found'; return 1; }
	# shellcheck disable=SC2086 # the names hold no spaces
	unformatted=$(gofmt -s -l $files 2>&1)
	[ -z "$unformatted" ] || {
		printf '%s\nTo mend it: make fmt\n' "$unformatted"
		return 1
	}
}

scripts() {
	for script in hack/*.sh test/readers/*.sh; do
		sh -n "$script" || return 1
	done
	bash -n .ci/run
}

# licences compares too: a module that came or went, or may not be used.
licences() {
	make --no-print-directory licences LICENCES="$scratch/licences.md" && diff -u docs/licences.md "$scratch/licences.md" || {
		echo 'To mend it: make licences, if it says nothing else'
		return 1
	}
}

tidy() { (cd "$(dirname "$1")" && go mod tidy -diff); }

# The tags are those of test/netns and of hack/image, which plain go commands leave out.
vet() { (cd "$(dirname "$1")" && go vet -tags netns,image ./...); }

check 'generated code is current' generated
check 'CRDs are compatible with the last release' go run ./hack/crdcompat hack/crdcompat/released config/crd/bases
check 'licences are allowed and listed' licences
check 'workflows mean what they say' go tool -modfile=hack/supplytools/go.mod actionlint
check 'Go code is formatted' formatted
check 'shell scripts parse' scripts
for mod in $modules; do check "tidy: $mod" tidy "$mod"; done
for mod in $packages; do check "vet: $mod" vet "$mod"; done
check 'lint' hack/lint.sh run

if [ -n "$failures" ]; then
	echo "verify: failed:$failures"
	exit 1
fi
echo 'verify: all in order'
