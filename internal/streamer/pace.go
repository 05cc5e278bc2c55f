// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"net/http"
	"time"
)

// pace says when a reader is written to, and when it is left.
type pace struct {
	gone, closing       <-chan struct{}
	interval, heartbeat time.Duration
	// beat ends a silence, pause the least time between two writes.
	beat, pause *time.Timer
}

// signal is why a wait ended.
type signal uint8

const (
	woken   signal = iota // frames came
	fired                 // the time was over
	left                  // the reader went
	closing               // the server is closing
)

func (h *Handler) pace(r *http.Request) *pace {
	return &pace{
		gone: r.Context().Done(), closing: h.hub.closing,
		interval: h.MinInterval, heartbeat: h.Heartbeat,
		beat: time.NewTimer(h.Heartbeat), pause: time.NewTimer(h.MinInterval),
	}
}

func (p *pace) stop() {
	p.beat.Stop()
	p.pause.Stop()
}

// wait waits until wake is closed or the timer fires.
func (p *pace) wait(timer *time.Timer, wake <-chan struct{}) signal {
	select {
	case <-wake:
		return woken
	case <-timer.C:
		return fired
	case <-p.gone:
		return left
	case <-p.closing:
		return closing
	}
}

// now reports whether the stream is to end, without waiting.
func (p *pace) now() signal {
	select {
	case <-p.gone:
		return left
	case <-p.closing:
		return closing
	default:
		return woken
	}
}

// wrote waits out the least time between two writes, unless something urgent
// comes, so that a fast stream costs one write for many frames. The heartbeat
// begins anew.
func (p *pace) wrote(urgent <-chan struct{}) signal {
	p.beat.Reset(p.heartbeat)
	return p.breathe(urgent)
}

// breathe is wrote where nothing was written.
func (p *pace) breathe(urgent <-chan struct{}) signal {
	if p.interval == 0 {
		return woken
	}
	p.pause.Reset(p.interval)
	return p.wait(p.pause, urgent)
}
