// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"io"
	"net/http"

	"chatrun.dev/operator/api/stream"
)

var (
	// ErrNotOwner says that a replica does not have the run that it was asked for:
	// look again who has.
	ErrNotOwner = errors.New("that replica does not have the run")
	// ErrRefused says that a replica does not take us for one of its own. To ask
	// again would change nothing.
	ErrRefused = errors.New("the other replica refused")
)

// Peers are the other replicas.
type Peers interface {
	// Open asks the replica of this name for the events of a run, after the frame
	// with the id after if that is not empty. The body is what the endpoint of Relay
	// writes, and is to be closed; the context ends it, too. Errors: ErrNotOwner and
	// ErrRefused; after any other it may be tried again later.
	Open(ctx context.Context, owner string, run Run, after string) (io.ReadCloser, error)
}

// fault is why a relay ended for good.
type fault struct {
	code   int // before the first byte
	failed stream.Failed
}

// The faults of a relay.
var (
	faultRefused = &fault{http.StatusBadGateway, stream.Failed{
		Reason: "RelayRefused",
		Message: "the replica that has this run does not take the one that answers you for a replica: " +
			"whoever runs the operator should look whether all replicas run under one ServiceAccount, with a relay token of the audience chatrun.dev/relay",
	}}
	faultUnreachable = &fault{http.StatusServiceUnavailable, stream.Failed{
		Reason:  "OwnerUnreachable",
		Message: "the replica that has this run could not be reached, and no other one took it over: try again",
	}}
)

// refuse answers a request that meets the fault before the first byte.
func (f *fault) refuse(w http.ResponseWriter) {
	refuse(w, f.code, f.failed.Reason, f.failed.Message)
}
