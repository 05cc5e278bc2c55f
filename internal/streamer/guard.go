// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import "net/http"

// Guard decides who may read the stream of a run. It is asked before anything
// about the run is looked up, so that who may not read cannot learn whether it
// exists. Namespace and name are ones that objects can have.
type Guard interface {
	Admitter
	// Issue answers a request for a ticket, which stands in for the caller's
	// credentials at this one run where no header can be sent.
	Issue(w http.ResponseWriter, r *http.Request, namespace, name string)
	// AdmitList reports whether the request may list the runs of a namespace. If
	// not, it has answered it.
	AdmitList(w http.ResponseWriter, r *http.Request, namespace string) bool
}

// Admitter is the half of a Guard that lets readers in.
type Admitter interface {
	// Admit reports whether the request may read the run. If not, it has
	// answered it.
	Admit(w http.ResponseWriter, r *http.Request, namespace, name string) bool
}

// Anyone admits everybody, and issues no tickets, as nobody needs one. It is
// for endpoints that only their own machine reaches.
var Anyone Guard = anyone{}

type anyone struct{}

// Admit implements Guard.
func (anyone) Admit(http.ResponseWriter, *http.Request, string, string) bool { return true }

// AdmitList implements Guard.
func (anyone) AdmitList(http.ResponseWriter, *http.Request, string) bool { return true }

// Issue implements Guard.
func (anyone) Issue(w http.ResponseWriter, _ *http.Request, _, _ string) {
	refuse(w, http.StatusNotFound, "NotFound", "this endpoint asks nobody who they are: read the stream without a ticket")
}
