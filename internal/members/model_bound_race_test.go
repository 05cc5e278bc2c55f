// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build race

package members

// someWorlds are fewer with the race detector, which makes each cost ten times as
// much, and has nothing to look for: the search is one goroutine.
const someWorlds = 400_000
