// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bytes"
	"net/http"
	"time"
	"unicode/utf8"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// maxWrite bounds one write, so that a long frame has a deadline for each piece
// and a slow reader of it is not taken for one that does not read.
const maxWrite = 64 << 10

// maxPiece bounds what a reader of a whole text holds of it while it does not
// read, beside what that is encoded: up to six times as much.
const maxPiece = 4 << 10

// sink writes to one reader.
type sink struct {
	w       http.ResponseWriter
	control *http.ResponseController
	flusher interface{ FlushError() error } // nil if there is none
	timeout time.Duration
	// extended is when the deadline was set, now when the last write began.
	extended, now time.Time
	// multiplexed says that the deadline is one of a stream of HTTP/2, which it
	// ends even if nothing is being written then.
	multiplexed bool
}

func (h *Handler) sink(w http.ResponseWriter, r *http.Request) *sink {
	return &sink{w: w, flusher: flusher(w), control: http.NewResponseController(w), timeout: h.WriteTimeout, multiplexed: r.ProtoMajor > 1}
}

// flusher finds what flushes behind all that is wrapped around it, as
// http.ResponseController does at each call.
func flusher(w http.ResponseWriter) interface{ FlushError() error } {
	for {
		if f, ok := w.(interface{ FlushError() error }); ok {
			return f
		}
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil
		}
		w = wrapped.Unwrap()
	}
}

// send writes frames, each piece of maxWrite under a deadline of its own.
func (s *sink) send(frames ...[]byte) error {
	s.extend()
	for _, f := range frames {
		for len(f) > maxWrite {
			if _, err := s.w.Write(f[:maxWrite]); err != nil { //nolint:gosec // never sent as HTML, and with nosniff
				return err
			}
			f = f[maxWrite:]
			s.extend()
		}
		if _, err := s.w.Write(f); err != nil { //nolint:gosec // likewise
			return err
		}
	}
	return nil
}

// sendWhole writes the text of an episode as one frame. If the episode ends
// meanwhile the frame is cut short: a reset comes next.
func (s *sink) sendWhole(l *log, w whole) error {
	return s.sendText(w.at, w.size, func(from int) []byte { return l.excerpt(w.at.attempt, from, w.size) })
}

// sendFinished writes all frames of a run that is finished.
func (s *sink) sendFinished(v *View, reset bool) error {
	before, at, after := finished(v, reset)
	if err := s.send(before...); err != nil {
		return err
	}
	if err := s.sendText(at, len(v.Text), func(from int) []byte { return pieceOf(v.Text, from) }); err != nil {
		return err
	}
	return s.send(after...)
}

// sendText writes a text as one frame, of pieces that excerpt returns from an
// offset on. They are encoded one by one, so that nobody who reads slowly holds
// more than a piece.
func (s *sink) sendText(at cursor, size int, excerpt func(from int) []byte) error {
	if size == 0 {
		return nil // reasoning alone, or there is nothing to send
	}
	// What a part without its text looks like, in two halves.
	const mark = "\x01"
	part := encode(messagePart(provider.Text, mark))
	head, tail, _ := bytes.Cut(event(at, stream.EventMessagePart, part), encodeText(mark))
	if err := s.send(head); err != nil {
		return err
	}
	for sent := 0; sent < size; {
		piece := excerpt(sent)
		if len(piece) == 0 {
			break
		}
		if err := s.send(encodeText(string(piece))); err != nil {
			return err
		}
		sent += len(piece)
	}
	return s.send(tail)
}

// encodeText returns s as JSON has it between quotes.
func encodeText(s string) []byte {
	b := encode(s)
	return b[1 : len(b)-1]
}

// runes returns how many bytes of text make whole runes and are at most limit.
func runes(text []byte, limit int) int {
	if len(text) <= limit {
		return len(text)
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return limit
}

// flush sends what was written.
func (s *sink) flush() error {
	err := s.flushOnly()
	if s.multiplexed {
		_ = s.control.SetWriteDeadline(time.Time{})
		s.extended = time.Time{}
	}
	return err
}

// flushOnly goes without the controller where it can, which looks for the
// method each time.
func (s *sink) flushOnly() error {
	if s.flusher != nil {
		return s.flusher.FlushError()
	}
	return s.control.Flush()
}

// extend sets the write deadline anew, unless that was done a moment ago: it
// costs a tenth of a write. A writer that has none is one that cannot block
// either, such as a recorder in a test.
func (s *sink) extend() {
	s.now = time.Now()
	if s.now.Sub(s.extended) < s.timeout/8 {
		return
	}
	s.extended = s.now
	_ = s.control.SetWriteDeadline(s.now.Add(s.timeout))
}
