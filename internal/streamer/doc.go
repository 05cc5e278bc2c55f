// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package streamer runs the attempts of runs and passes on what they stream.
// Every goroutine and mutex of a stream is here:
//
//   - Pool makes attempts, one worker each, under a context of its own, and
//     keeps their outcomes until they were written down.
//   - Hub keeps one append-only log of encoded frames a run. A reader is a
//     cursor over it, so history and live are one loop, and a slow reader is
//     only behind.
//     The log of a run that another replica has is a copy of that one's, kept by
//     a relay while somebody reads it.
//   - Handler serves the logs as server-sent events, and answers finished runs
//     from what a Source knows of them.
//
// What the package promises:
//
//   - Nothing that a reader does can touch a run.
//   - After a retry frame, no part of that attempt reaches anyone.
//   - Only parts are ever dropped, and whoever misses one gets the whole text
//     of the attempt anew.
//   - No lock is held while a provider, a nudge, a Source or a connection is
//     called.
//
// Nothing here knows Kubernetes.
package streamer

import "errors"

// Run identifies one run. Pool and Hub are keyed by UID; the name finds the
// UID that holds it at present.
type Run struct{ UID, Namespace, Name string }

// name is what a Run is found by.
type name struct{ namespace, name string }

func (r Run) key() name { return name{r.Namespace, r.Name} }

// The causes for which we end an attempt ourselves, as Outcome.Cause.
var (
	// ErrStopped: the run was cancelled on request.
	ErrStopped = errors.New("the run was cancelled")
	// ErrDeadline: the run's own time is over.
	ErrDeadline = errors.New("the run's deadline is over")
	// ErrSuspended: the run was suspended.
	ErrSuspended = errors.New("the run was suspended")
	// ErrShutdown: the manager ends.
	ErrShutdown = errors.New("the manager is shutting down")
	// ErrOwnershipLost: another replica may own the run by now.
	ErrOwnershipLost = errors.New("the ownership of the run was lost")
	// ErrGone: the object was deleted, or another holds its name.
	ErrGone = errors.New("the run is gone")
)

// errSilence is the cause of the silence guard. It leaves this package as a
// Failure of class Timeout only.
var errSilence = errors.New("no part came for longer than allowed")
