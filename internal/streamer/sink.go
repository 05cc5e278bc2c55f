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

// sink writes to one reader.
type sink struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	// multiplexed says that the deadline is one of a stream of HTTP/2, which it
	// ends even if nothing is being written then.
	multiplexed bool
	// until is the deadline that stands.
	until time.Time
}

func (h *Handler) sink(w http.ResponseWriter, r *http.Request) *sink {
	return &sink{w: w, control: http.NewResponseController(w), timeout: h.WriteTimeout, multiplexed: r.ProtoMajor > 1}
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

// sendWhole writes the text of an episode as one frame. It takes and encodes it
// piece by piece, so that nobody who reads slowly holds more than a piece. If the
// episode ends meanwhile the frame is cut short: a reset comes next.
func (s *sink) sendWhole(l *log, w whole) error {
	if w.size == 0 {
		return nil // reasoning alone, or there is nothing to send
	}
	// What a part without its text looks like, in two halves.
	const mark = "\x01"
	part := encode(messagePart(provider.Text, mark))
	head, tail, _ := bytes.Cut(event(w.at, stream.EventMessagePart, part), encodeText(mark))
	if err := s.send(head); err != nil {
		return err
	}
	for sent := 0; sent < w.size; {
		piece := l.excerpt(w.at.attempt, sent, w.size)
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
	err := s.control.Flush()
	if s.multiplexed {
		_ = s.control.SetWriteDeadline(time.Time{})
	}
	return err
}

// extend sets the write deadline anew, if a quarter of its time is over: that
// costs a tenth of a write, and three quarters are long enough. A writer that has
// no deadline is one that cannot block either, such as a recorder in a test.
func (s *sink) extend() {
	now := time.Now()
	if !s.multiplexed && s.until.Sub(now) > s.timeout-s.timeout/4 {
		return
	}
	s.until = now.Add(s.timeout)
	_ = s.control.SetWriteDeadline(s.until)
}
