// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"net/http"
	"time"
)

// RelayPath is where a replica asks another one for a run: RelayPath, its
// namespace, "/chatruns/", its name, "?uid=", its UID. Last-Event-ID is the frame
// to go on after.
const RelayPath = "/relay/v1/namespaces/"

// Relay returns the endpoint that other replicas read the logs of this one by, so
// that they can answer readers, too. It tells a log as it is: an event `ledger`
// with all that its frames do not say, the frames, and a comment `live` where the
// history ends. One who returns with the id of a frame that stands in the log gets
// the frames after it.
//
// It never relays. 404 says that there is no such run, 421 that this replica does
// not have it, or no more: look again who has.
func (h *Handler) Relay(guard Admitter) http.Handler {
	mux := http.NewServeMux()
	route(mux, RelayPath+"{namespace}/chatruns/{name}", func(w http.ResponseWriter, r *http.Request, run name) {
		if !guard.Admit(w, r, run.namespace, run.name) {
			return
		}
		if !h.relays.take(run, h.MaxRelays, 0) {
			h.counts.refusedRelays.Add(1)
			w.Header().Set("Retry-After", retryAfter)
			refuse(w, http.StatusTooManyRequests, "TooManyRequests", "too many runs are relayed: try again later")
			return
		}
		defer h.relays.giveBack(run)
		h.forward(w, r, run)
	}, http.MethodGet)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "NotFound", "no such path")
	})
	return mux
}

// forward tells another replica what is in the log of a run.
func (h *Handler) forward(w http.ResponseWriter, r *http.Request, run name) {
	l, ok := h.own(w, r, run)
	if !ok {
		return
	}
	defer h.hub.leave(l)
	f := &forwarder{Handler: h, out: *h.sink(w, r), reader: reader{log: l, copies: true}}
	h.pace(r, l, &f.pace)
	defer f.pace.stop()
	// The other replica paces its readers itself.
	f.pace.hurry(relayHurry)
	after := r.Header.Get("Last-Event-ID")
	begins := after == "" || !f.reader.resume(after)
	writeHeader(w, formatEvents)
	if (!begins || f.begin() == nil) && f.out.flush() == nil {
		f.run()
	}
}

// relayHurry is how much shorter the least time between two writes is to a
// replica: one more hop should not be seen.
const relayHurry = 4

// own joins the log of a run that this replica has, or refuses the request. It is
// to be left.
func (h *Handler) own(w http.ResponseWriter, r *http.Request, run name) (*log, bool) {
	v, err := h.source.Find(r.Context(), run.namespace, run.name)
	view, ok := h.found(w, run, &v, err)
	if !ok {
		return nil, false
	}
	if uid := r.URL.Query().Get("uid"); view.Run.UID != uid {
		code, reason, message := notThere(run.name)
		refuse(w, code, reason, message)
		return nil, false
	}
	// What is written here is this replica's, whatever an older view says.
	l := h.hub.joinWritten(view.Run)
	if l == nil && view.Owner == "" && !view.Finished {
		l = h.hub.join(view.Run)
	}
	switch {
	case l != nil && !l.mirrored():
		return l, true
	case l != nil:
		h.hub.leave(l)
	}
	if h.hub.closing.Err() != nil {
		unavailable(w, "the server is shutting down: try again")
	} else {
		refuse(w, http.StatusMisdirectedRequest, "Misdirected", "this replica does not have the run: look again who has")
	}
	return nil, false
}

// forwarder tells a log to one replica.
type forwarder struct {
	reader reader
	dirty  bool
	// told says that the history was.
	told bool
	pace pace
	out  sink

	*Handler
}

// begin tells the ledger, and the text of which parts were dropped.
func (f *forwarder) begin() error {
	book := f.reader.ledger()
	f.told, f.dirty = false, true
	if err := f.out.send(unplaced(eventLedger, encode(book))); err != nil {
		return err
	}
	for sent := 0; sent < book.TextBytes; {
		piece := f.reader.log.excerpt(book.Attempt, sent, book.TextBytes)
		if len(piece) == 0 {
			return nil // the attempt ended, and what comes next says so
		}
		if err := f.out.send(unplaced(eventText, encode(textPiece{string(piece)}))); err != nil {
			return err
		}
		sent += len(piece)
	}
	return nil
}

// run tells what is there and what comes, until the run ends, or is another
// replica's. That one is not told why: it looks again.
func (f *forwarder) run() {
	var frames [][]byte
	for {
		b := f.reader.next(frames[:0])
		frames = b.frames
		switch {
		case b.mirrored, b.state == ended && !f.hub.written(f.reader.log):
			return
		case b.fallen:
			if f.begin() != nil {
				return
			}
			b.more = true
		}
		if len(b.frames) > 0 {
			f.dirty = true
			if f.out.send(b.frames...) != nil {
				return
			}
		}
		clear(frames)
		if b.state != live || b.more && f.pace.now() != woken || !b.more && !f.rest(b) {
			return
		}
	}
}

// rest says that all was told, and waits for more. It reports whether to go on.
func (f *forwarder) rest(b batch) bool {
	if !f.told {
		f.told, f.dirty = true, true
		if f.out.send([]byte(": "+liveMark+"\n\n")) != nil {
			return false
		}
	}
	if f.dirty {
		f.dirty = false
		if f.out.flush() != nil {
			return false
		}
		f.pace.write(f.out.now)
	}
	for {
		switch f.pace.next(b.known) {
		case woken:
			return true
		case fired:
			f.pace.beat(time.Now())
			if f.out.send(heartbeat) != nil || f.out.flush() != nil {
				return false
			}
		default:
			return false
		}
	}
}
