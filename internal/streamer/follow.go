// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"chatrun.dev/operator/api/stream"
)

// heartbeat is a comment, which readers of server-sent events skip.
var heartbeat = []byte(": keep-alive\n\n")

// reconnect is how long an EventSource that was cut waits before it comes back.
const reconnect = 2 * time.Second

// The bounds of the same where the server closes and all its readers come back:
// spread out, so that the next one is not stormed.
const (
	minSpread = time.Second
	maxSpread = 10 * time.Second
)

func reconnectAfter(d time.Duration) []byte {
	return fmt.Appendf(nil, "retry: %d\n\n", d.Milliseconds())
}

// follower streams a run's events from its log to one reader.
//
// What a part touches of it stands together, and first: of thousands of readers
// none is in the processor's cache.
type follower struct {
	reader reader
	// dirty says that something was written since the last flush.
	dirty bool
	pace  pace
	out   sink

	*Handler
	request *http.Request
	view    *View
	query   query
}

// follow streams until the run ends, the reader goes, or the server closes.
func (h *Handler) follow(w http.ResponseWriter, r *http.Request, l *log, v *View, q query) {
	f := &follower{Handler: h, request: r, out: *h.sink(w, r), reader: reader{log: l}, view: v, query: q}
	h.pace(r, l, &f.pace)
	defer f.pace.stop()
	head := [][]byte{reconnectAfter(reconnect)}
	if q.after == "" || !f.reader.resume(q.after) {
		head = append(head, f.reader.enter(q.after != "", v)...)
	}
	writeHeader(w, formatEvents)
	// The header goes out at once, also where there is nothing else to say.
	if f.out.send(head...) == nil && f.out.flush() == nil {
		f.run()
	}
}

// run is the one loop over history and what comes.
func (f *follower) run() {
	var frames [][]byte
	for {
		b := f.reader.next(frames[:0])
		frames = b.frames
		if b.astray {
			f.startRelay(f.reader.log)
		}
		switch {
		case b.fault != nil:
			_ = f.out.send(unplaced(stream.EventFailed, encode(b.fault.failed))) // the stream ends in any case
		case b.state == ended && (b.hollow || !f.hub.written(f.reader.log)):
			// What the run has of text is not in this log.
			if answered, _ := f.lookAgain(b.hollow); answered {
				return
			}
		}
		if b.fallen {
			b.frames, b.more = f.reader.enter(true, f.view), true
		}
		if !f.write(b) || b.state != live || !b.more && !f.query.follow {
			return
		}
		clear(frames) // an idle reader keeps no frame alive
		if b.more {
			if s := f.pace.now(); s >= left {
				f.farewell(s)
				return
			}
		} else if !f.rest(b) {
			return
		}
	}
}

// lookAgain asks the source whether the run ended, where no attempt began in the
// log. It reports whether the run was answered from its view, and whether it is
// gone.
func (f *follower) lookAgain(reset bool) (answered, gone bool) {
	v, gone := f.Handler.lookAgain(f.request, f.view.Run)
	if !v.Finished {
		return false, gone
	}
	f.conclude(v, reset)
	return true, false
}

// conclude answers from the view of a run that is finished. Without its text,
// if that cannot be read at present, the reader is cut, and comes back.
func (f *follower) conclude(v *View, reset bool) {
	release, err := v.load(f.request.Context())
	if err != nil {
		return
	}
	defer release()
	_ = f.out.sendFinished(v, reset)
}

// lookAgain asks the source for a run anew, and reports whether it is gone. The
// view is empty if there is no news.
func (h *Handler) lookAgain(r *http.Request, run Run) (v *View, gone bool) {
	found, err := h.source.Find(r.Context(), run.Namespace, run.Name)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && found.Run.UID != run.UID:
		return &View{}, true
	case err != nil:
		return &View{}, false
	}
	return &found, false
}

// write writes a batch, and reports whether the reader is still there.
func (f *follower) write(b batch) bool {
	if len(b.frames) == 0 && b.whole.size == 0 {
		return true
	}
	f.dirty = true
	return f.out.send(b.frames...) == nil && f.out.sendWhole(f.reader.log, b.whole) == nil
}

// rest flushes what was written, and waits for the next frame. It reports
// whether to go on.
func (f *follower) rest(b batch) bool {
	if f.dirty {
		f.dirty = false
		if f.out.flush() != nil {
			return false
		}
		f.pace.write(f.out.now)
	}
	for {
		switch s := f.pace.next(b.known); s {
		case woken:
			return true
		case fired:
			if !f.keepAlive() {
				return false
			}
		default:
			f.farewell(s)
			return false
		}
	}
}

// keepAlive sends the heartbeat, and reports whether to go on.
func (f *follower) keepAlive() bool {
	if f.hub.written(f.reader.log) {
		v, gone := f.Handler.lookAgain(f.request, f.view.Run)
		switch {
		case gone:
			return false
		case v.Finished && f.reader.log.complete(v):
			// The log was not told yet. It is from here on.
			f.hub.Finish(v.Run, v.End)
		case v.Finished:
			f.conclude(v, true)
			return false
		case v.Owner != "":
			// Nobody told us that the run moved, as when we are fenced.
			f.hub.Elsewhere(v.Run)
		}
	} else if answered, gone := f.lookAgain(f.reader.seq > 0); answered || gone {
		return false
	}
	f.pace.beat(time.Now())
	return f.out.send(heartbeat) == nil && f.out.flush() == nil
}

// farewell tells a reader of a closing server where the run stands, and when to
// come back.
func (f *follower) farewell(s signal) {
	if s != closing {
		return
	}
	status := f.reader.log.standing(f.view)
	// Nothing to be done about a reader that is gone as well.
	_ = f.out.send(
		reconnectAfter(minSpread+rand.N(maxSpread-minSpread)), //nolint:gosec // who comes back when is no secret
		unplaced(stream.EventStatus, encode(status)))
}
