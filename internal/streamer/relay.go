// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"chatrun.dev/operator/api/stream"
)

const (
	// minRedial and maxRedial bound the wait before an owner is asked again. It
	// doubles from one to the other, as an owner that went may come back in a moment,
	// and one that does not is waited for by every run that somebody reads.
	minRedial = 100 * time.Millisecond
	maxRedial = 5 * time.Second
	// DefaultOwnerLimit is how long no owner may be reached: longer than the Lease of
	// one that went is waited for by default, and than the others take to take over.
	DefaultOwnerLimit = 90 * time.Second
	// healthy is how long a connection has to last until the next try is made at once:
	// one that is accepted and then dropped, again and again, is none.
	healthy = 5 * time.Second
	// silentBeats is how many heartbeats may be missing of an owner.
	silentBeats = 3
	// historyWait is how long a reader waits, before the first byte, for what the
	// owner has. One that answers takes milliseconds.
	historyWait = 5 * time.Second
	// ownerLook is how often the owner is looked up while its connection is well:
	// what is told by Elsewhere may be lost.
	ownerLook = 30 * time.Second
	// doneWait is how long an owner may take to tell of the end of a run that its
	// object tells already.
	doneWait = 2 * time.Second
)

// liveMark is the comment that says that a history is told, and what comes from
// here on is new.
const liveMark = "live"

// relay copies one run's log from its owner. It is one goroutine, for all
// readers of the run here, and holds one connection at most.
type relay struct {
	*Handler
	log    *log
	mirror *mirror
	// wait is how long to wait before the next try, reached when an owner last told
	// its whole history, or was given up after that.
	wait    time.Duration
	reached time.Time
	// anew says that the log's end is no place to go on from.
	anew bool
}

// mirror sees to it that the log of a run that is another replica's is relayed
// from there, and reports whether it is.
func (h *Handler) mirror(l *log, v *View) bool {
	if h.Peers == nil {
		return false
	}
	if v.Owner != "" {
		h.hub.estrange(l)
	}
	h.startRelay(l)
	return l.mirrored()
}

// startRelay starts the relay of a log, if it needs one. It ends with the last
// reader.
func (h *Handler) startRelay(l *log) {
	if h.Peers == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.mirror
	if m == nil || m.started || l.state != live || l.released {
		return
	}
	m.started = true
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(h.hub.closing)
	r := &relay{Handler: h, log: l, mirror: m, wait: minRedial, reached: time.Now()}
	go r.run(ctx)
}

// settle waits for the history of a mirrored log, so that whoever returns to it
// with a cursor can go on, and what cannot be had is refused in time. It reports
// whether to go on.
func (h *Handler) settle(w http.ResponseWriter, r *http.Request, l *log, q query) bool {
	over := time.NewTimer(historyWait)
	defer over.Stop()
	for wait := l.settled(); wait != nil; wait = l.behind(q.after) {
		select {
		case <-wait:
			continue
		case <-over.C:
			if !q.follow || l.behind(q.after) != nil {
				// To answer from an old copy would be to tell anew what is void by now.
				unavailable(w, "the replica that has this run could not be asked what there is: try again")
				return false
			}
		case <-h.hub.closing.Done():
			unavailable(w, "the server is shutting down: try again")
			return false
		case <-r.Context().Done():
			// To return would be to answer 200.
			panic(http.ErrAbortHandler)
		}
		break
	}
	if f := l.faulted(); f != nil {
		f.refuse(w)
		return false
	}
	return true
}

// run relays until the run ends, or is this replica's, or cannot be had.
func (r *relay) run(ctx context.Context) {
	r.counts.fetched.Add(1)
	defer r.counts.fetched.Add(-1)
	for ctx.Err() == nil {
		// What is told from here on is news.
		select {
		case <-r.mirror.look:
		default:
		}
		owner, over := r.find(ctx)
		if over {
			return
		}
		if owner != "" {
			switch err := r.connect(ctx, owner); {
			case errors.Is(err, errOver):
				return
			case errors.Is(err, ErrRefused):
				r.hub.abandon(r.log, r.mirror, faultRefused)
				return
			case errors.Is(err, errGarbage):
				// It will hardly mend itself in a moment, and each try costs it a history.
				r.anew, r.wait = true, maxRedial
			}
		}
		if time.Since(r.reached) >= r.OwnerLimit {
			r.hub.abandon(r.log, r.mirror, faultUnreachable)
			return
		}
		r.rest(ctx)
	}
}

// errOver says that there is nothing more to relay.
var errOver = errors.New("there is nothing more to relay")

// find looks up who has the run: nobody if that cannot be found out, or if it
// will be this replica. over says that the relay has nothing more to do.
func (r *relay) find(ctx context.Context) (owner string, over bool) {
	run := r.log.run
	v, err := r.source.Find(ctx, run.Namespace, run.Name)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && v.Run.UID != run.UID:
		r.hub.abandon(r.log, r.mirror, nil)
		return "", true
	case err != nil:
		return "", false
	case v.Finished:
		r.log.conclude(r.mirror, v.End)
		return "", true
	case v.Owner != "":
		return v.Owner, false
	}
	// It is ours. What was copied stands until it is begun here.
	r.reached, r.wait = time.Now(), maxRedial
	return "", r.log.reclaim(r.mirror, &v)
}

// rest waits before the next try, or until there is news of the owner.
func (r *relay) rest(ctx context.Context) {
	over := time.NewTimer(r.wait)
	defer over.Stop()
	select {
	case <-over.C:
	case <-r.mirror.look:
	case <-ctx.Done():
	}
	r.wait = min(2*r.wait, maxRedial)
}

// connect relays from an owner until the connection ends, or is ended since
// nothing came for too long, or since the run is another's.
func (r *relay) connect(ctx context.Context, owner string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(silentBeats*r.Heartbeat, cancel)
	defer silence.Stop()
	defer r.watch(ctx, cancel, owner)()
	after := ""
	if !r.anew {
		after = r.log.place(r.mirror)
	}
	body, err := r.Peers.Open(ctx, owner, r.log.run, after)
	if err != nil {
		return err
	}
	// Whatever the body is, to read it ends with the context.
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = body.Close()
		close(closed)
	})
	defer func() {
		if stop() {
			_ = body.Close()
		} else {
			<-closed
		}
	}()
	return r.receive(body, silence)
}

// watch looks up the owner again when there is news, and now and then, and ends
// the connection if it is no longer the one to ask. The result ends that.
func (r *relay) watch(ctx context.Context, cancel context.CancelFunc, owner string) (stop func()) {
	run := r.log.run
	var finished atomic.Int64 // when that was first seen
	return r.log.probe(r.mirror, func() time.Duration {
		v, err := r.source.Find(ctx, run.Namespace, run.Name)
		switch {
		case errors.Is(err, ErrNotFound), err == nil && v.Run.UID != run.UID:
			cancel()
		case err == nil && v.Finished:
			now := time.Now().UnixNano()
			if first := finished.Load(); first == 0 {
				finished.Store(now)
			} else if now-first >= int64(doneWait) {
				cancel()
			}
			return doneWait
		case err == nil && v.Owner != owner:
			cancel()
		}
		return ownerLook
	})
}

// receive copies what comes into the log, and returns why that ended.
func (r *relay) receive(body io.Reader, silence *time.Timer) error {
	in := newIncomings(body)
	c := receiver{relay: r}
	for {
		f, err := in.next()
		if err == nil {
			silence.Reset(silentBeats * r.Heartbeat)
			if f.comment == "" {
				r.counts.frames.Add(1)
			}
			err = c.take(f)
		}
		if err != nil {
			if c.told {
				r.reached = time.Now()
			}
			return err
		}
		r.hub.relieve()
	}
}

// receiver takes what comes over one connection.
type receiver struct {
	*relay
	// history is a log that is being filled, up to the frame last; nil while what
	// comes goes on after the log's own end.
	history *log
	last    uint64
	// told says that the history is told, at that time, and what comes is new.
	told bool
	at   time.Time
	// finals are the frames that end the run, until `done` is there.
	finals []*incoming
}

// take takes a frame or a comment.
func (c *receiver) take(f *incoming) (err error) {
	if c.told {
		if time.Since(c.at) >= healthy {
			// This owner does more than to accept and to drop.
			c.wait = minRedial
		}
	}
	switch {
	case f.comment == liveMark:
		return c.live()
	case f.comment != "":
		return nil
	case f.event == eventLedger && !c.closing():
		c.history, c.last, err = restore(c.log.run, c.log.limit, f.data)
		c.told = false
		return err
	case f.event == eventText && c.history != nil:
		return c.history.copyText(f)
	case f.event == stream.EventUsage, f.event == stream.EventFailed, f.event == stream.EventDone:
		c.finals = append(c.finals, f)
		if f.event != stream.EventDone && len(c.finals) <= maxFinals {
			return nil
		}
		return c.end()
	case c.closing():
		return fmt.Errorf("%w: a frame among the final ones", errGarbage)
	case c.history != nil:
		err = c.history.copy(f, c.last)
		c.history.trim(c.history.limit)
		return err
	}
	return c.log.follow(c.mirror, func(l *log) error { return l.copy(f, 0) }, f.event == stream.EventRetry)
}

// maxFinals is how many frames come before `done`: usage and failed.
const maxFinals = 2

func (c *receiver) closing() bool { return len(c.finals) > 0 }

// live is for the mark that the history is told.
func (c *receiver) live() error {
	switch {
	case c.history != nil && !c.log.take(c.mirror, c.history):
		return errOver
	case c.history == nil && !c.log.taken():
		return fmt.Errorf("%w: no history", errGarbage)
	}
	c.history, c.told, c.anew, c.reached = nil, true, false, time.Now()
	c.at = c.reached
	return nil
}

// end ends the log.
func (c *receiver) end() error {
	if c.history == nil {
		return cmp.Or(c.log.follow(c.mirror, func(l *log) error { return l.copyEnd(c.finals) }, true), errOver)
	}
	if err := c.history.copyEnd(c.finals); err != nil {
		return err
	}
	c.log.take(c.mirror, c.history)
	return errOver
}
