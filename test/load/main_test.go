// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package load holds thousands of readers against the stream endpoint, over real
// sockets, half of which never read. `make test-load` prints what they cost.
package load

import (
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"chatrun.dev/operator/test/load/crowd"
)

func TestMain(m *testing.M) {
	crowd.Main()
	goleak.VerifyTestMain(m)
}

// needFiles fails the test where a process may not have so many connections.
// Go raises the soft limit to the hard one by itself.
func needFiles(tb testing.TB, connections int) {
	tb.Helper()
	const others = 100
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		tb.Fatal(err)
	}
	if need := uint64(connections + others); limit.Cur < need {
		tb.Fatalf("this process may open %d files and needs %d: raise the hard limit, ulimit -Hn, to that", limit.Cur, need)
	}
}
