// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package members knows the replicas of the manager: which of them live, by a
// Lease each, and which of them has whose turn. There is no leader and no
// coordinator beside the API server.
//
// What the package promises:
//
//   - Held is true only while no other replica can take this one for gone. A
//     replica that cannot renew its Lease, or was stopped, is not held before
//     anybody may take over.
//   - A replica is taken for gone only if its Lease was given back, or if a read
//     of the API server finds it as it was seen a whole Lease duration before, by
//     this machine's own clock. Other clocks do not matter. What was so once may be
//     over: before an attempt of the replica is written off, Gone reads again.
//   - All replicas that know the same members give a run to the same one.
package members
