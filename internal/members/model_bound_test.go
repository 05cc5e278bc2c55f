// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package members

// someWorlds take seconds, and hold all that most searches find.
const someWorlds = 1_000_000
