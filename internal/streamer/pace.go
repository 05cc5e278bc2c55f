// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"net/http"
	"time"
)

// pace says when a reader is written to, and when it is left. Most of what a
// reader costs is the system call of a write, and next to it being woken: so a
// fast stream shares writes, and a slow one wakes its readers once a frame.
type pace struct {
	gone, closing       context.Context
	interval, heartbeat time.Duration
	// disturbed says that the reader went, the server is closing, or a heartbeat
	// is due. One channel for all of them makes a wait cheap.
	disturbed chan struct{}
	beat      *time.Timer
	// ends ends what disturbs.
	ends []func() bool
	// pause ends the least time between two writes; nil until there is need.
	pause *time.Timer
	// looked is the last time that frames were looked for, spoke that at which
	// something was written.
	looked, spoke time.Time
	// begun says that what is there when a reader comes was told: the first frame
	// after it does not wait.
	begun bool
	// fast says that frames come within the interval of each other.
	fast bool
}

// signal is why a wait ended.
type signal uint8

const (
	woken   signal = iota // frames came
	fired                 // a heartbeat is due
	left                  // the reader went
	closing               // the server is closing
)

func (h *Handler) pace(r *http.Request) *pace {
	p := &pace{
		gone: r.Context(), closing: h.hub.closing,
		interval: h.MinInterval, heartbeat: h.Heartbeat,
		disturbed: make(chan struct{}, 1), spoke: time.Now(),
	}
	p.beat = time.AfterFunc(h.Heartbeat, p.disturb)
	p.ends = []func() bool{p.beat.Stop, context.AfterFunc(p.gone, p.disturb), context.AfterFunc(p.closing, p.disturb)}
	return p
}

func (p *pace) stop() {
	for _, end := range p.ends {
		end()
	}
	if p.pause != nil {
		p.pause.Stop()
	}
}

func (p *pace) disturb() {
	select {
	case p.disturbed <- struct{}{}:
	default:
	}
}

// now reports whether the stream is to end, without waiting.
func (p *pace) now() signal {
	switch {
	case p.gone.Err() != nil:
		return left
	case p.closing.Err() != nil:
		return closing
	}
	return woken
}

// rest waits until there is something to look at: after a look, and after a
// write if wrote says so. It returns fired after a silence of a heartbeat. Within
// the least time between two writes only something urgent counts.
func (p *pace) rest(wrote bool, wake, urgent <-chan struct{}) signal {
	now := time.Now()
	if wrote {
		p.spoke = now
	}
	if p.begun {
		p.looked = now
	}
	p.begun = true
	if p.fast {
		if s := p.sleep(p.interval, urgent); s >= left {
			return s
		}
		select {
		case <-wake:
			return woken
		default:
			p.fast = false // nothing came meanwhile
		}
	}
	for {
		select {
		case <-wake:
			if soon := p.interval - time.Since(p.looked); p.interval > 0 && soon > 0 {
				p.fast = true
				return p.sleep(soon, urgent)
			}
			return woken
		case <-p.disturbed:
			if s := p.now(); s >= left {
				return s
			}
			silence := time.Since(p.spoke)
			if silence >= p.heartbeat {
				p.spoke = time.Now()
				p.beat.Reset(p.heartbeat)
				return fired
			}
			p.beat.Reset(p.heartbeat - silence)
		}
	}
}

// sleep waits for a time, or until something urgent comes.
func (p *pace) sleep(d time.Duration, urgent <-chan struct{}) signal {
	if p.pause == nil {
		p.pause = time.NewTimer(d)
	} else {
		p.pause.Reset(d)
	}
	select {
	case <-urgent:
	case <-p.pause.C:
	case <-p.gone.Done():
	case <-p.closing.Done():
	}
	return p.now()
}
