// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"errors"
	"net/http"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// heartbeat is a comment, which readers of server-sent events skip.
var heartbeat = [][]byte{[]byte(": keep-alive\n\n")}

// maxWrite bounds one write, so that a long frame has a deadline for each piece
// and a slow reader of it is not taken for one that does not read.
const maxWrite = 64 << 10

// sink writes frames to one reader.
type sink struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

// send writes frames, each piece of maxWrite under a deadline of its own.
func (s *sink) send(frames [][]byte) error {
	s.extend()
	for _, f := range frames {
		for len(f) > maxWrite {
			if _, err := s.w.Write(f[:maxWrite]); err != nil {
				return err
			}
			f = f[maxWrite:]
			s.extend()
		}
		if _, err := s.w.Write(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *sink) flush() error { return s.control.Flush() }

// extend sets the write deadline anew. A writer that has none is one that
// cannot block either, such as a recorder in a test.
func (s *sink) extend() { _ = s.control.SetWriteDeadline(time.Now().Add(s.timeout)) }

// open sends the header.
func (h *Handler) open(w http.ResponseWriter) *sink {
	writeHeader(w)
	return &sink{w: w, control: http.NewResponseController(w), timeout: h.WriteTimeout}
}

// answer streams a finished run from its view, with the same frames in the same
// order as one that was followed to its end.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, v View, last string) {
	if r.Context().Err() == nil {
		// A reader that goes away meanwhile has nobody to be told of.
		_ = h.open(w).send(finished(v, last != ""))
	}
}

// finished returns the frames of a finished run. Their epoch is in no log, so
// who is cut among them and comes back is reset, and gets all of them again.
func finished(v View, reset bool) [][]byte {
	at := cursor{epoch: newEpoch(), attempt: v.Status.Attempt}
	var frames [][]byte
	add := func(what stream.Name, data any) {
		at.seq++
		frames = append(frames, event(at, what, encode(data)))
	}
	if reset {
		add(stream.EventReset, stream.Reset{Attempt: v.Status.Attempt})
	}
	add(stream.EventStatus, v.Status)
	if v.Text != "" {
		add(stream.EventMessagePart, messagePart(provider.Text, v.Text))
	}
	if v.Title != "" {
		add(stream.EventTitle, stream.Title{Title: v.Title})
	}
	if v.End.Usage != nil {
		add(stream.EventUsage, v.End.Usage)
	}
	if v.End.Failed != nil {
		add(stream.EventFailed, v.End.Failed)
	}
	return append(frames, eventWithID([]byte(endID(v.Run.UID)), stream.EventDone, encode(v.End.Done)))
}

// follower streams a run that is not finished, from its log, to one reader.
type follower struct {
	*Handler
	request *http.Request
	out     *sink
	reader  *reader
	view    View
	// dirty says that something was written since the last flush.
	dirty bool
	// beat ends a silence, pause the least time between two writes.
	beat, pause *time.Timer
}

// live streams until the run ends, the reader goes, or the server closes.
func (h *Handler) live(w http.ResponseWriter, r *http.Request, rd *reader, v View, last string) {
	var head [][]byte
	if last == "" || !rd.resume(last) {
		head = rd.enter(last != "", v)
	}
	f := &follower{
		Handler: h, request: r, out: h.open(w), reader: rd, view: v,
		beat: time.NewTimer(h.Heartbeat), pause: time.NewTimer(h.MinInterval),
	}
	defer f.beat.Stop()
	defer f.pause.Stop()
	// The header goes out at once, also where there is nothing else to say.
	if f.out.send(head) == nil && f.out.flush() == nil {
		f.run()
	}
}

// run is the one loop over history and what comes.
func (f *follower) run() {
	var frames [][]byte
	for {
		b := f.reader.next(frames[:0])
		frames = b.frames
		if b.state == ended {
			if answered, _ := f.unwritten(); answered {
				return
			}
		}
		if b.fallen {
			b.frames, b.more = f.reader.enter(true, f.view), true
		}
		if !f.write(b) || b.state != live {
			return
		}
		clear(frames[:cap(frames)]) // an idle reader keeps no frame alive
		if !b.more && !f.rest(b) {
			return
		}
	}
}

// unwritten looks at the run anew if no attempt began in its log: what the run
// has of text is not in the log then, and if it ended while the source was
// behind, nobody will write there. It reports whether the run was answered from
// its view, and whether it is gone.
func (f *follower) unwritten() (answered, gone bool) {
	if f.hub.written(f.reader.log) {
		return false, false
	}
	run := f.view.Run
	v, err := f.source.Find(f.request.Context(), run.Namespace, run.Name)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && v.Run.UID != run.UID:
		return false, true
	case err != nil || !v.Finished:
		return false, false
	}
	_ = f.out.send(finished(v, false))
	return true, false
}

// write writes a batch, and reports whether the reader is still there.
func (f *follower) write(b batch) bool {
	if b.whole != nil {
		b.frames = append(b.frames, b.whole.bytes())
	}
	if len(b.frames) == 0 {
		return true
	}
	f.dirty = true
	return f.out.send(b.frames) == nil
}

// rest flushes what was written, and waits for the next frame: for a while in
// any case, so that a fast stream costs one write for many frames. It reports
// whether to go on.
func (f *follower) rest(b batch) bool {
	if f.dirty {
		if f.out.flush() != nil {
			return false
		}
		f.dirty = false
		f.beat.Reset(f.Heartbeat)
		if f.MinInterval > 0 {
			f.pause.Reset(f.MinInterval)
			if _, ok := f.wait(f.pause, b.urgent); !ok {
				return false
			}
		}
	}
	for {
		woken, ok := f.wait(f.beat, b.wake)
		if woken || !ok {
			return ok
		}
		if !f.keepAlive() {
			return false
		}
	}
}

// wait waits until wake is closed, then it returns true first, or until the
// timer fires. It returns false second if the stream is to end.
func (f *follower) wait(timer *time.Timer, wake <-chan struct{}) (woken, ok bool) {
	select {
	case <-wake:
		return true, true
	case <-timer.C:
		return false, true
	case <-f.request.Context().Done():
	case <-f.hub.closing:
	}
	return false, false
}

// keepAlive sends the heartbeat, and reports whether to go on.
func (f *follower) keepAlive() bool {
	if answered, gone := f.unwritten(); answered || gone {
		return false
	}
	f.beat.Reset(f.Heartbeat)
	return f.out.send(heartbeat) == nil && f.out.flush() == nil
}
