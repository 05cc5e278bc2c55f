// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"net/http"
	"strconv"
)

// A format that is text alone cannot take text back. So its rule is: an answer
// that ends properly is the whole answer of a run that succeeded. Where that is
// not to be had any more, the answer is broken off, or refused if nothing of it
// was sent.

// teller writes a run's text in such a format.
type teller interface {
	// text is for a piece of the model's text, at most maxWrite bytes.
	text(model string, piece []byte) []byte
	// silence keeps the connection alive; nil if the format has nothing for it.
	silence() []byte
	// end is for the proper end of a run.
	end(End) []byte
	// broken is for any other; nil if the format has nothing for it, and the
	// connection is to be cut.
	broken(reason, message string) []byte
}

// textCursor is a reader's place in the text of a run.
type textCursor struct {
	attempt int32
	sent    int
}

// passage is what comes next.
type passage struct {
	text []byte
	// void says that the text before this belongs to an attempt that failed.
	void bool
	// gone says that the run was deleted, end how it finished; nil while it is
	// under way.
	gone  bool
	end   *End
	model string
	wake  <-chan struct{}
}

// read returns the text after the cursor, and moves it. To hold is to see no
// text before the run has succeeded.
func (l *log) read(c *textCursor, hold bool) passage {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.episode
	switch {
	case l.state == dropped:
		return passage{gone: true}
	case c.sent > 0 && (c.attempt != e.attempt || c.sent > len(e.text)):
		return passage{void: true}
	}
	p := passage{end: l.end}
	if l.status != nil {
		p.model = l.status.Model
	}
	c.attempt = e.attempt
	if !hold || l.state == ended {
		p.text = e.text[c.sent:]
		c.sent = len(e.text)
	}
	if l.state == live {
		p.wake = waker(&l.wake)
	}
	return p
}

// What readers are told whose text is void.
const (
	reasonVoid  = "AttemptFailed"
	messageVoid = "an attempt failed after text of it was sent: drop that text, and read again"
)

// narrator tells one reader the text of a run.
type narrator struct {
	*Handler
	teller
	request *http.Request
	w       http.ResponseWriter
	out     *sink
	view    View
	query   query
	cursor  textCursor
	// opened says that the header was sent.
	opened bool
}

// narrate tells the text of a run that is under way, or ended a moment ago.
func (h *Handler) narrate(w http.ResponseWriter, r *http.Request, l *log, v View, q query) {
	n := h.narrator(w, r, v, q)
	pace := h.pace(r)
	defer pace.stop()
	if n.silence() != nil && !n.open() {
		return
	}
	for {
		p := l.read(&n.cursor, q.hold)
		switch {
		case p.gone:
			n.breakOff(http.StatusNotFound, "NotFound", "the run was deleted")
			return
		case p.void:
			n.breakOff(http.StatusServiceUnavailable, reasonVoid, messageVoid)
			return
		case p.end != nil && !n.hub.written(l):
			// What the run has of text is not in this log.
			if v, _ := n.lookAgain(r, v.Run); v.Finished {
				n.conclude(v)
			} else {
				n.finish(*p.end)
			}
			return
		case p.end != nil && !succeeded(*p.end):
			n.finish(*p.end)
			return
		}
		if p.end != nil {
			n.measure(p.text, *p.end)
		}
		if !n.say(p.model, p.text) {
			return
		}
		if p.end != nil {
			n.finish(*p.end)
			return
		}
		if !q.follow {
			n.open()
			return
		}
		if len(p.text) > 0 {
			if n.out.flush() != nil {
				return
			}
			if s := pace.wrote(nil); s >= left {
				n.leave(s)
				return
			}
		}
		if !n.rest(pace, p.wake) {
			return
		}
	}
}

// rest waits for text, and reports whether to go on.
func (n *narrator) rest(pace *pace, wake <-chan struct{}) bool {
	for {
		switch s := pace.wait(pace.beat, wake); s {
		case woken:
			return true
		case fired:
			pace.beat.Reset(n.Heartbeat)
			v, gone := n.lookAgain(n.request, n.view.Run)
			switch {
			case gone:
				n.breakOff(http.StatusNotFound, "NotFound", "the run was deleted")
				return false
			case v.Finished:
				n.conclude(v)
				return false
			}
			if beat := n.silence(); beat != nil && (n.out.send(beat) != nil || n.out.flush() != nil) {
				return false
			}
		default:
			n.leave(s)
			return false
		}
	}
}

func (h *Handler) narrator(w http.ResponseWriter, r *http.Request, v View, q query) *narrator {
	n := &narrator{Handler: h, request: r, w: w, out: h.sink(w), view: v, query: q}
	if q.format == formatOpenAI {
		n.teller = newChunks(v.Run, q.usage)
	} else {
		n.teller = plain{}
	}
	return n
}

// conclude tells the text of a run that its object tells to be finished.
func (n *narrator) conclude(v View) {
	switch {
	case n.cursor.sent > 0:
		// Some text was sent from a log that was not told of this end, as another
		// process wrote it: perhaps of another attempt.
		n.breakOff(http.StatusServiceUnavailable, reasonVoid, messageVoid)
	case !succeeded(v.End):
		n.finish(v.End)
	default:
		text := []byte(v.Text)
		n.measure(text, v.End)
		if n.say(v.End.Done.Model, text) {
			n.cursor.sent = len(text)
			n.finish(v.End)
		}
	}
}

// measure tells the size of a whole answer before it is sent, so that whoever
// is cut within it knows, over HTTP/1.0 as well.
func (n *narrator) measure(text []byte, end End) {
	if n.query.format == formatText && !n.opened && int64(len(text)) == end.Done.Bytes {
		n.w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	}
}

// say sends text, and reports whether the reader is still there.
func (n *narrator) say(model string, text []byte) bool {
	if len(text) == 0 {
		return true
	}
	if !n.open() {
		return false
	}
	for len(text) > 0 {
		size := runes(text, maxWrite)
		if n.out.send(n.text(model, text[:size])) != nil {
			return false
		}
		text = text[size:]
	}
	return true
}

// finish ends the answer as its run ended.
func (n *narrator) finish(end End) {
	switch {
	case !succeeded(end):
		reason, message := end.Done.Reason, end.Done.Message
		if end.Failed != nil {
			reason, message = end.Failed.Reason, end.Failed.Message
		}
		n.breakOff(http.StatusFailedDependency, reason, "the run did not succeed: "+message)
	case int64(n.cursor.sent) < end.Done.Bytes && end.Done.Truncated:
		n.breakOff(http.StatusInsufficientStorage, "Truncated", "the end of the answer was not kept")
	case int64(n.cursor.sent) < end.Done.Bytes:
		n.breakOff(http.StatusServiceUnavailable, "ServiceUnavailable", "the answer is being written down: read again")
	case n.open():
		_ = n.out.send(n.end(end))
	}
}

// leave ends the answer to a reader that went, or of a server that closes.
func (n *narrator) leave(s signal) {
	if s == closing {
		n.breakOff(http.StatusServiceUnavailable, "ServiceUnavailable", "the server is shutting down: read again")
	}
}

// open sends the header, once, and reports whether the reader is still there.
func (n *narrator) open() bool {
	if n.opened {
		return true
	}
	n.opened = true
	writeHeader(n.w, n.query.format)
	n.out.extend()
	return n.out.flush() == nil
}

// breakOff ends an answer that is not whole: with an error if nothing of it was
// sent, else in a way that no client takes for a proper end.
func (n *narrator) breakOff(code int, reason, message string) {
	if !n.opened {
		refuse(n.w, code, reason, message)
		return
	}
	if last := n.broken(reason, message); last != nil {
		_ = n.out.send(last)
		return
	}
	_ = n.out.flush()
	panic(http.ErrAbortHandler)
}

// succeeded reports whether a run gave a whole answer.
func succeeded(end End) bool { return end.Done.Phase == phaseSucceeded }

// plain is the text as it is, for readers without a parser.
type plain struct{}

func (plain) text(_ string, piece []byte) []byte { return piece }
func (plain) silence() []byte                    { return nil }
func (plain) end(End) []byte                     { return nil }
func (plain) broken(string, string) []byte       { return nil }
