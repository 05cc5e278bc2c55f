// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"
)

// A format that is text alone cannot take text back. So its rule is: an answer
// that ends properly is the whole answer of a run that succeeded. Where that is
// not to be had any more, the answer is broken off, or refused if nothing of it
// was sent.

// teller writes a run's text in such a format.
type teller interface {
	// text is for a piece of the model's text, at most maxPiece bytes.
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
	// text is a piece, at most maxPiece bytes; more says that there is another.
	text []byte
	more bool
	// void says that the text before this belongs to an attempt that failed.
	void bool
	// gone says that the run was deleted, end how it finished; nil while it is
	// under way.
	gone  bool
	fault *fault // why it could not be relayed, if that is why it is gone
	end   *End
	model string
	// whole is the size of all the text, this piece and what came before included.
	whole int
	known knowledge
	// astray says that another replica writes the log, and nobody relays from it
	// yet, hollow that the run ended and its text is not here.
	astray, hollow bool
}

// read returns the text after the cursor, and moves it. To hold is to see no
// text before the run has succeeded.
func (l *log) read(c *textCursor, hold bool) passage {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.episode
	l.hear()
	switch {
	case l.state == dropped:
		return passage{gone: true, fault: l.fault}
	case l.hollow:
		return passage{end: l.end, hollow: true}
	case c.sent > 0 && (c.attempt != e.attempt || c.sent > len(e.text)):
		return passage{void: true}
	}
	p := passage{end: l.end, whole: len(e.text), astray: l.mirror != nil && !l.mirror.started}
	if l.status != nil {
		p.model = l.status.Model
	}
	c.attempt = e.attempt
	if !hold || l.state == ended {
		p.text = piece(e.text, c.sent, len(e.text))
		c.sent += len(p.text)
		p.more = c.sent < len(e.text)
	}
	p.known = l.knowledge()
	return p
}

// excerpt returns a piece of an attempt's text from an offset up to a size;
// nothing if the attempt ended without it.
func (l *log) excerpt(attempt int32, from, size int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hear()
	if l.episode.attempt != attempt || len(l.episode.text) < size {
		return nil
	}
	return piece(l.episode.text, from, size)
}

// piece copies at most maxPiece bytes of whole runes: who holds one that is slow
// to be written does not hold the text that it is of.
func piece(text []byte, from, to int) []byte {
	text = text[from:to]
	return bytes.Clone(text[:runes(text, maxPiece)])
}

// pieceOf is piece for a text that nobody changes.
func pieceOf(text string, from int) []byte {
	n := min(len(text)-from, maxPiece)
	for n > 0 && from+n < len(text) && !utf8.RuneStart(text[from+n]) {
		n--
	}
	return []byte(text[from : from+n])
}

// complete reports whether the log has all the text of a run that finished so.
func (l *log) complete(v *View) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whole(v.End)
}

func (l *log) whole(end End) bool {
	l.hear()
	e := &l.episode
	return end.Void || e.open && e.attempt == end.Done.Attempt && int64(len(e.text)) == end.Done.Bytes
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
	view    *View
	query   query
	log     *log
	pace    pace
	cursor  textCursor
	// opened says that the header was sent, waited that the reader has all that
	// there was before.
	opened, waited bool
}

// narrate tells the text of a run that is under way, or ended a moment ago.
func (h *Handler) narrate(w http.ResponseWriter, r *http.Request, l *log, v *View, q query) {
	n := h.narrator(w, r, v, q)
	n.log = l
	h.pace(r, l, &n.pace)
	defer n.pace.stop()
	for n.step() {
	}
}

// step tells what is there, and waits for more. It reports whether to go on.
func (n *narrator) step() bool {
	p := n.log.read(&n.cursor, n.query.hold)
	if p.astray {
		n.startRelay(n.log)
	}
	switch {
	case p.fault != nil:
		return n.breakOff(p.fault.code, p.fault.failed.Reason, p.fault.failed.Message)
	case p.gone:
		return n.breakOff(http.StatusNotFound, "NotFound", "the run was deleted")
	case p.void:
		return n.breakOff(http.StatusServiceUnavailable, reasonVoid, messageVoid)
	case p.hollow, p.end != nil && !n.hub.written(n.log):
		// What the run has of text is not in this log.
		if v, _ := n.lookAgain(n.request, n.view.Run); v.Finished {
			return n.conclude(v)
		}
		return n.finish(*p.end)
	case p.end != nil && !n.worth(p.whole, *p.end):
		return n.finish(*p.end)
	}
	if p.end != nil {
		n.measure(p.whole)
	}
	n.say(p.model, p.text)
	switch {
	case p.more:
		if s := n.pace.now(); s >= left {
			return n.leave(s)
		}
		return true
	case p.end != nil:
		return n.finish(*p.end)
	case n.silence() != nil:
		n.open()
	}
	return n.breathe(len(p.text) > 0) && n.rest(p.known)
}

// breathe flushes what was written. The least time between two writes begins;
// so it does where there was nothing to write, as for one who holds.
func (n *narrator) breathe(wrote bool) bool {
	switch {
	case wrote && n.out.flush() != nil:
		return n.leave(left)
	case wrote:
		n.pace.write(n.out.now)
	case n.waited:
		n.pace.look(time.Now())
	}
	return true
}

// rest waits for text, and reports whether to go on.
func (n *narrator) rest(since knowledge) bool {
	for {
		switch s := n.pace.next(since); s {
		case woken:
			n.waited = true
			return true
		case fired:
			n.pace.beat(time.Now())
			v, gone := n.lookAgain(n.request, n.view.Run)
			switch {
			case gone:
				return n.breakOff(http.StatusNotFound, "NotFound", "the run was deleted")
			case v.Finished && n.log.complete(v):
				// The log was not told yet. It is from here on.
				n.hub.Finish(v.Run, v.End)
				return true
			case v.Finished:
				return n.conclude(v)
			}
			if beat := n.silence(); beat != nil && (n.out.send(beat) != nil || n.out.flush() != nil) {
				n.abandon()
			}
		default:
			return n.leave(s)
		}
	}
}

func (h *Handler) narrator(w http.ResponseWriter, r *http.Request, v *View, q query) *narrator {
	n := &narrator{Handler: h, request: r, w: w, out: h.sink(w, r), view: v, query: q}
	if q.format == formatOpenAI {
		n.teller = newChunks(v.Run, q.usage)
	} else {
		n.teller = plain{}
	}
	return n
}

// conclude tells the text of a run that its object tells to be finished. It
// returns false, as all do that end an answer.
func (n *narrator) conclude(v *View) bool {
	if n.cursor.sent > 0 {
		// Some text was sent from a log that was not told of this end, as another
		// process wrote it: perhaps of another attempt.
		return n.breakOff(http.StatusServiceUnavailable, reasonVoid, messageVoid)
	}
	release, err := v.load(n.request.Context())
	if err != nil {
		return n.breakOff(unread(v.Run.Name, err))
	}
	defer release()
	if n.worth(len(v.Text), v.End) || n.part(v) {
		if int64(len(v.Text)) >= v.End.Done.Bytes {
			n.measure(len(v.Text))
		}
		for n.cursor.sent < len(v.Text) {
			next := pieceOf(v.Text, n.cursor.sent)
			n.say(v.End.Done.Model, next)
			n.cursor.sent += len(next)
		}
	}
	return n.finish(v.End)
}

// worth reports whether the text of a run that ended so is to be sent: all of it
// is there, or some was sent before that was known.
func (n *narrator) worth(size int, end End) bool {
	return succeeded(end) && (int64(size) >= end.Done.Bytes || n.opened && !n.query.hold)
}

// part reports whether what is kept of a longer answer is to be sent, and then
// broken off. One who holds wants all or nothing.
func (n *narrator) part(v *View) bool {
	return succeeded(v.End) && v.End.Done.Truncated && v.Text != "" && !n.query.hold
}

// measure tells the size of a whole answer before it is sent, so that whoever
// is cut within it knows, over HTTP/1.0 as well.
func (n *narrator) measure(size int) {
	if n.query.format == formatText && !n.opened {
		n.w.Header().Set("Content-Length", strconv.Itoa(size))
	}
}

// say sends a piece of text.
func (n *narrator) say(model string, text []byte) {
	if len(text) == 0 {
		return
	}
	n.open()
	if n.out.send(n.text(model, text)) != nil {
		n.abandon()
	}
}

// finish ends the answer as its run ended.
func (n *narrator) finish(end End) bool {
	switch {
	case !succeeded(end):
		reason, message := end.Done.Reason, end.Done.Message
		if end.Failed != nil {
			reason, message = end.Failed.Reason, end.Failed.Message
		}
		return n.breakOff(http.StatusFailedDependency, reason, "the run did not succeed: "+message)
	case int64(n.cursor.sent) < end.Done.Bytes && end.Done.Truncated:
		return n.breakOff(http.StatusInsufficientStorage, "Truncated", "the end of the answer was not kept")
	case int64(n.cursor.sent) < end.Done.Bytes:
		return n.breakOff(http.StatusServiceUnavailable, "ServiceUnavailable", "the answer is being written down: read again")
	}
	n.open()
	if n.out.send(n.end(end)) != nil {
		n.abandon()
	}
	return false
}

// leave ends the answer to a reader that went, or of a server that closes.
func (n *narrator) leave(s signal) bool {
	if s == closing {
		return n.breakOff(http.StatusServiceUnavailable, "ServiceUnavailable", "the server is shutting down: read again")
	}
	n.abandon()
	return false
}

// open sends the header, once.
func (n *narrator) open() {
	if n.opened {
		return
	}
	n.opened = true
	n.out.extend()
	writeHeader(n.w, n.query.format)
	if n.out.flush() != nil {
		n.abandon()
	}
}

// breakOff ends an answer that is not whole: with an error if nothing of it was
// sent, else in a way that no client takes for a proper end.
func (n *narrator) breakOff(code int, reason, message string) bool {
	switch last := n.broken(reason, message); {
	case !n.opened:
		n.w.Header().Del("Content-Length")
		refuse(n.w, code, reason, message)
	case last == nil || n.out.send(last) != nil:
		_ = n.out.flush() // what was sent so far is the reader's
		n.abandon()
	}
	return false
}

// abandon cuts the connection: to return would be to end the answer properly.
func (n *narrator) abandon() { panic(http.ErrAbortHandler) }

// succeeded reports whether a run gave a whole answer.
func succeeded(end End) bool { return end.Done.Phase == phaseSucceeded }

// plain is the text as it is, for readers without a parser.
type plain struct{}

func (plain) text(_ string, piece []byte) []byte { return piece }
func (plain) silence() []byte                    { return nil }
func (plain) end(End) []byte                     { return nil }
func (plain) broken(string, string) []byte       { return nil }
