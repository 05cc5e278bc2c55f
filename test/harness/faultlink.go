// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"io"
	"net/http"
)

// Cut cuts the link: what is under way breaks, and what comes is not answered until
// the client gives up or what Cut returned is called.
func (p *FaultProxy) Cut() (heal func()) {
	cut := make(chan struct{})
	p.mu.Lock()
	p.cut = cut
	p.mu.Unlock()
	p.server.CloseClientConnections()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.cut == cut {
			p.cut = nil
			close(cut)
		}
	}
}

// whole waits until the link is, and reports false if the client gave up before.
func (p *FaultProxy) whole(r *http.Request) bool {
	p.mu.Lock()
	cut := p.cut
	p.mu.Unlock()
	if cut == nil {
		return true
	}
	// The end of the client shows once its body is read.
	_, _ = io.Copy(io.Discard, r.Body)
	select {
	case <-r.Context().Done():
	case <-cut:
	}
	return false
}
