// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// pace says when a reader is written to, and when it is left. Whatever it waits for
// rings its bell, and no timer is touched for a part: of what a part costs beside its
// write, waking thousands of readers is the most.
type pace struct {
	bell                bell
	log                 *log
	interval, heartbeat time.Duration
	// wrote is when frames were written last, spoke when anything was.
	wrote, spoke time.Time
	// alarm is when the timer fires; zero if it is to be set anew.
	alarm time.Time
	timer *time.Timer

	request, closing context.Context
	unleft, unhook   func() bool
}

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
		log: l, interval: h.MinInterval, heartbeat: h.Heartbeat, spoke: now, alarm: now.Add(h.Heartbeat),
		request: r.Context(), closing: h.hub.closing,
	}
	p.bell.rung = make(chan struct{}, 1)
	p.timer = time.AfterFunc(h.Heartbeat, p.bell.time)
	p.unleft = context.AfterFunc(p.request, p.bell.end)
	p.unhook = context.AfterFunc(p.closing, p.bell.end)
	l.listen(&p.bell)
}

// hurry shortens the least time between two writes, and has no part held back: for a
// reader that has readers of its own.
func (p *pace) hurry(by time.Duration) {
	p.interval /= by
	p.log.quicken(&p.bell)
}

func (p *pace) stop() {
	p.log.deafen(&p.bell)
	p.timer.Stop()
	p.unleft()
	p.unhook()
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

// wait waits until a count is no longer what was heard of it, or until the time is
// there. A count changes before the bell rings, and so does whether it is muffled
// before a reader looks again, so no change is missed.
func (p *pace) wait(until time.Time, count *atomic.Uint64, heard uint64) signal {
	for {
		switch {
		case p.bell.over.Load():
			return p.now()
		case count.Load() != heard:
			return woken
		}
		if p.bell.timed.Load() {
			p.bell.timed.Store(false)
			p.alarm = time.Time{}
			if !time.Now().Before(until) {
				return fired
			}
		}
		// An alarm that is too early does no harm.
		if p.alarm.IsZero() || until.Before(p.alarm) {
			p.alarm = until
			p.timer.Reset(time.Until(until))
		}
		<-p.bell.rung
	}
}

// next waits for news, or for a heartbeat to be due. Frames that come sooner than the
// least time between two writes wait for it, unless one is urgent, so that a fast
// stream costs one write for many frames.
func (p *pace) next(since knowledge) signal {
	count, known := &p.log.news, since.news
	if p.bell.hurried {
		count, known = &p.log.all, since.all
	}
	s := p.wait(p.spoke.Add(p.heartbeat), count, known)
	if s != woken || p.interval == 0 {
		return s
	}
	if due := p.wrote.Add(p.interval); time.Now().Before(due) {
		p.bell.muffled.Store(true)
		if s = p.wait(due, &p.log.alarms, since.alarms); s == fired {
			s = woken
		}
		p.bell.muffled.Store(false)
	}
	return s
}

// write says that frames were written at this time, beat that a heartbeat was,
// look that there was nothing to write.
func (p *pace) write(now time.Time) { p.spoke, p.wrote = now, now }
func (p *pace) beat(now time.Time)  { p.spoke = now }
func (p *pace) look(now time.Time)  { p.wrote = now }
