// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"chatrun.dev/operator/api/stream"
)

const (
	// maxIncoming bounds one frame: a provider's event has 8 MiB at most, of which
	// JSON makes three times as much where it is no proper text.
	maxIncoming = 32 << 20
	// keptIncoming is the largest buffer that is kept for the next frame.
	keptIncoming = 64 << 10
	// maxFrameName bounds ids and the names of events, which are far shorter.
	maxFrameName = 256
)

// incoming is a frame of another replica, or a comment.
type incoming struct {
	id    string
	event stream.Name
	// data is within raw, the frame in its bytes.
	data, raw []byte
	comment   string
}

// into decodes the data.
func (f *incoming) into(v any) error {
	if err := json.Unmarshal(f.data, v); err != nil {
		return fmt.Errorf("%w: an event %s that cannot be read", errGarbage, f.event)
	}
	return nil
}

// incomings reads frames as they are written here: one line a field, and data
// that is one line. Only the lines of the id and of the event are looked at.
type incomings struct {
	from *bufio.Reader
	buf  []byte
}

func newIncomings(from io.Reader) *incomings { return &incomings{from: bufio.NewReader(from)} }

// next returns the next frame, or an errGarbage, or what reading failed with:
// io.EOF only between two frames.
func (s *incomings) next() (*incoming, error) {
	s.buf = s.buf[:0]
	if cap(s.buf) > keptIncoming {
		s.buf = nil
	}
	for {
		began := len(s.buf)
		if err := s.line(); err != nil {
			if errors.Is(err, io.EOF) && len(s.buf) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(s.buf) == began+1 {
			break
		}
	}
	f, err := parseFrame(slices.Clone(s.buf))
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// line appends a line with its end.
func (s *incomings) line() error {
	for {
		some, err := s.from.ReadSlice('\n')
		s.buf = append(s.buf, some...)
		switch {
		case len(s.buf) > maxIncoming:
			return fmt.Errorf("%w: a frame without an end", errGarbage)
		case err == nil:
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// parseFrame finds the fields of a frame, which ends with an empty line.
func parseFrame(raw []byte) (incoming, error) {
	f := incoming{raw: raw}
	for rest := raw; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		field, value, ok := bytes.Cut(line, []byte(": "))
		switch {
		case len(line) == 0:
		case bytes.ContainsAny(line, "\r\x00"):
			return f, fmt.Errorf("%w: a line that readers would take for two", errGarbage)
		case ok && len(field) == 0:
			f.comment = string(value[:min(len(value), maxFrameName)])
		case ok && string(field) == "data" && f.data == nil:
			f.data = value
		case ok && string(field) == "id" && f.id == "" && len(value) <= maxFrameName:
			f.id = string(value)
		case ok && string(field) == "event" && f.event == "" && len(value) <= maxFrameName:
			f.event = stream.Name(value)
		default:
			return f, fmt.Errorf("%w: a line that is no field", errGarbage)
		}
	}
	if f.comment == "" && (f.event == "" || f.data == nil) || f.comment != "" && (f.event != "" || f.data != nil || f.id != "") {
		return f, fmt.Errorf("%w: a frame without event or data", errGarbage)
	}
	return f, nil
}
