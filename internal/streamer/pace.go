// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// pace says when a reader is written to, and when it is left. A part wakes
// thousands of readers, and what they select from is a large part of what that
// costs: so all but the frames comes by one channel, and no timer is touched.
type pace struct {
	request, closing    context.Context
	interval, heartbeat time.Duration
	// crowd is how many read the same log.
	crowd *atomic.Int32
	// wrote is when frames were written last, spoke when anything was.
	wrote, spoke time.Time
	// nudge receives when the timer fires, at alarm, and when a context ends.
	nudge chan struct{}
	timer *time.Timer
	// alarm is zero if the timer is to be set anew.
	alarm          time.Time
	unleft, unhook func() bool
}

const (
	// wideCrowd is a number of readers for whom a frame costs milliseconds of CPU,
	// wideInterval still short for an eye: half as many writes and less.
	wideCrowd    = 250
	wideInterval = 50 * time.Millisecond
)

// signal is why a wait ended.
type signal uint8

const (
	woken   signal = iota // frames came
	fired                 // the time was over
	left                  // the reader went
	closing               // the server is closing
)

func (h *Handler) pace(r *http.Request, l *log, p *pace) {
	now := time.Now()
	*p = pace{
		request: r.Context(), closing: h.hub.closing,
		interval: h.MinInterval, heartbeat: h.Heartbeat, crowd: &l.crowd,
		spoke: now, alarm: now.Add(h.Heartbeat), nudge: make(chan struct{}, 1),
	}
	p.timer = time.AfterFunc(h.Heartbeat, p.poke)
	p.unleft = context.AfterFunc(p.request, p.poke)
	p.unhook = context.AfterFunc(p.closing, p.poke)
}

func (p *pace) stop() {
	p.timer.Stop()
	p.unleft()
	p.unhook()
}

func (p *pace) poke() {
	select {
	case p.nudge <- struct{}{}:
	default: // it has one to look at
	}
}

// now reports whether the stream is to end, without waiting.
func (p *pace) now() signal {
	switch {
	case p.request.Err() != nil:
		return left
	case p.closing.Err() != nil:
		return closing
	}
	return woken
}

// wait waits until wake is closed, or until the time is there.
func (p *pace) wait(until time.Time, wake <-chan struct{}) signal {
	for {
		// An alarm that is too early does no harm.
		if p.alarm.IsZero() || until.Before(p.alarm) {
			p.alarm = until
			p.timer.Reset(time.Until(until))
		}
		select {
		case <-wake:
			return woken
		case <-p.nudge:
		}
		now := time.Now()
		if !now.Before(p.alarm) {
			p.alarm = time.Time{}
		}
		if s := p.now(); s != woken {
			return s
		}
		if !now.Before(until) {
			return fired
		}
	}
}

// next waits for frames, or for a heartbeat to be due. Frames that come sooner
// than the least time between two writes wait for it, unless one is urgent, so
// that a fast stream costs one write for many frames.
func (p *pace) next(wake, urgent <-chan struct{}) signal {
	s := p.wait(p.spoke.Add(p.heartbeat), wake)
	if s != woken || p.interval == 0 {
		return s
	}
	if due := p.wrote.Add(p.least()); time.Now().Before(due) {
		if s = p.wait(due, urgent); s == fired {
			s = woken
		}
	}
	return s
}

// least is the least time between two writes: longer where each costs a wide
// crowd of them.
func (p *pace) least() time.Duration {
	if p.crowd.Load() >= wideCrowd {
		return max(p.interval, wideInterval)
	}
	return p.interval
}

// write says that frames were written at this time, beat that a heartbeat was,
// look that there was nothing to write.
func (p *pace) write(now time.Time) { p.spoke, p.wrote = now, now }
func (p *pace) beat(now time.Time)  { p.spoke = now }
func (p *pace) look(now time.Time)  { p.wrote = now }
