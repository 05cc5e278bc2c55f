// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"errors"
	"io"
)

const (
	// firstBuffer holds some ten events of a token each; it is all that most
	// streams ever need, and there are thousands of streams.
	firstBuffer = 2 << 10
	// maxEvent bounds a line, and the data of an event: a model may send a
	// picture or a whole file as one event, and nothing sane is larger.
	maxEvent = 8 << 20
	// maxEmptyReads bounds reads that bring neither bytes nor an error.
	maxEmptyReads = 100
)

// errEventTooLong says that an event is larger than maxEvent.
var errEventTooLong = errors.New("event of the stream exceeds 8 MiB")

// event is one server-sent event. Its slices are valid until the next read.
type event struct {
	name, data []byte
}

// eventReader splits a body into server-sent events, by the rules of the HTML
// standard: lines end in LF, CR or CRLF; a byte order mark at the beginning
// and comments are skipped; an event ends at an empty line, and only there.
// Ids and reconnection times mean nothing here.
type eventReader struct {
	body io.Reader
	// buf[start:end] is read and not yet split; buf[start:scanned] has no line end.
	buf                 []byte
	start, scanned, end int
	// skipLF: the last line ended in CR, and an LF right after it belongs to it.
	skipLF  bool
	begun   bool
	hasData bool
	event   event
	// err is how the body ended; it may come together with the last bytes.
	err error
}

func newEventReader(body io.Reader) *eventReader { return &eventReader{body: body} }

// next returns the next event that has data. It returns io.EOF at the end of
// the body, where an event that no empty line ended is left in rest.
func (r *eventReader) next() (event, error) {
	r.reset()
	for {
		line, err := r.line()
		if err != nil {
			return event{}, err
		}
		if len(line) > 0 {
			if err := r.field(line); err != nil {
				return event{}, err
			}
			continue
		}
		if r.hasData {
			return r.event, nil
		}
		r.reset()
	}
}

// rest returns the data that stood after the last event when next failed:
// those of complete lines, or of a last line that the end of the body cut.
func (r *eventReader) rest() []byte {
	if r.start < r.end {
		_ = r.field(r.buf[r.start:r.end])
		r.start = r.end
	}
	return r.event.data
}

func (r *eventReader) reset() {
	r.hasData = false
	r.event = event{r.event.name[:0], r.event.data[:0]}
}

// field takes one line that is not empty.
func (r *eventReader) field(line []byte) error {
	name, value, _ := bytes.Cut(line, []byte{':'})
	value = bytes.TrimPrefix(value, []byte{' '})
	switch string(name) {
	case "data", "error":
		if string(name) == "error" {
			// No field of the standard: llama.cpp's, for an error in a stream.
			r.event.name = append(r.event.name[:0], name...)
		}
		if len(r.event.data)+len(value) >= maxEvent {
			return errEventTooLong
		}
		if r.hasData {
			r.event.data = append(r.event.data, '\n')
		}
		r.hasData = true
		r.event.data = append(r.event.data, value...)
	case "event":
		r.event.name = append(r.event.name[:0], value...)
	}
	return nil
}

// line returns the next line without its end.
func (r *eventReader) line() ([]byte, error) {
	for {
		if line, ok := r.split(); ok {
			return line, nil
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// split cuts a line off the buffer, if a whole one is there.
func (r *eventReader) split() ([]byte, bool) {
	if r.skipLF && r.start < r.end {
		r.skipLF = false
		if r.buf[r.start] == '\n' {
			r.start++
			r.scanned = max(r.scanned, r.start)
		}
	}
	fresh := r.buf[r.scanned:r.end]
	i := bytes.IndexByte(fresh, '\n')
	if i >= 0 {
		fresh = fresh[:i]
	}
	if cr := bytes.IndexByte(fresh, '\r'); cr >= 0 {
		i, r.skipLF = cr, true
	}
	if i < 0 {
		r.scanned = r.end
		return nil, false
	}
	line := r.buf[r.start : r.scanned+i]
	r.start = r.scanned + i + 1
	r.scanned = r.start
	if !r.begun {
		r.begun = true
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
	}
	return line, true
}

// fill reads more of the body, after what is there.
func (r *eventReader) fill() error {
	if r.start > 0 {
		copy(r.buf, r.buf[r.start:r.end])
		r.scanned -= r.start
		r.end -= r.start
		r.start = 0
	}
	if r.end == len(r.buf) {
		if r.end >= maxEvent {
			return errEventTooLong
		}
		grown := make([]byte, min(max(2*len(r.buf), firstBuffer), maxEvent))
		copy(grown, r.buf[:r.end])
		r.buf = grown
	}
	for range maxEmptyReads {
		if r.err != nil {
			return r.err
		}
		var n int
		n, r.err = r.body.Read(r.buf[r.end:])
		if r.end += n; n > 0 {
			return nil
		}
	}
	return io.ErrNoProgress
}

// peek returns what the body begins with, up to the first line end, without
// consuming it. How the body ended, if it did, is told by next.
func (r *eventReader) peek() []byte {
	for {
		start := bytes.TrimLeft(bytes.TrimPrefix(r.buf[r.start:r.end], []byte("\xef\xbb\xbf")), "\r\n")
		if bytes.ContainsAny(start, "\r\n") || r.fill() != nil {
			return start
		}
	}
}

// unread returns the body from where the reader stands.
func (r *eventReader) unread() io.Reader {
	return io.MultiReader(bytes.NewReader(r.buf[r.start:r.end]), r.body)
}

// looksLikeEvents reports whether a body begins with a field or a comment of
// an event stream.
func looksLikeEvents(start []byte) bool {
	for _, field := range []string{":", "data:", "error:", "event:", "id:", "retry:"} {
		if bytes.HasPrefix(start, []byte(field)) {
			return true
		}
	}
	return false
}
