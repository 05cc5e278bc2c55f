#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Runs each fuzz test for a while, one after the other.
set -eu
cd "$(dirname "$0")/.."
time=${1:-10s}

found=
for file in $(grep -rl --include='*_test.go' '^func Fuzz' api cmd hack internal 2>/dev/null); do
	for name in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		found=yes
		echo "fuzz: $name in ./$(dirname "$file") for $time"
		go test -C "$(dirname "$file")" -run='^$' -fuzz="^$name\$" -fuzztime="$time" -fuzzminimizetime=10x .
	done
done
[ -n "$found" ] || { echo 'fuzz: there is no fuzz test' >&2; exit 1; }
