// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// patience is for what should take a moment, on a machine that is busy: a
// browser starts in it, and waits 10 s at most to come back.
const patience = 60 * time.Second

// reading is what a reader has read so far, and in the end.
type reading struct {
	mu     sync.Mutex
	text   []byte
	resets int
	// broken counts the cuts within a frame, where a reader tells.
	broken int
	// finished is OpenAI's reason for the end.
	finished string
	err      error
	changed  chan struct{}
	done     chan struct{}
}

func newReading() *reading {
	return &reading{changed: make(chan struct{}), done: make(chan struct{})}
}

// part appends to the draft.
func (r *reading) part(text string) {
	r.change(func() { r.text = append(r.text, text...) })
}

// reset empties the draft.
func (r *reading) reset() {
	r.change(func() { r.text, r.resets = nil, r.resets+1 })
}

// finish notes the reason for the end, which all chunks but one leave out.
func (r *reading) finish(reason string) {
	r.change(func() { r.finished = cmp.Or(reason, r.finished) })
}

// end is called once, with nil if the reader is sure that it has all.
func (r *reading) end(err error) {
	r.change(func() { r.err = err })
	close(r.done)
}

func (r *reading) change(how func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	how()
	close(r.changed)
	r.changed = make(chan struct{})
}

// saw waits until the draft is this text.
func (r *reading) saw(t *testing.T, text string) {
	t.Helper()
	if !r.sawOrEnded(t, text) {
		t.Fatalf("the reader ended (%v) with %s, not with %s", r.err, brief(string(r.text)), brief(text))
	}
}

// sawOrEnded waits until the draft is this text, or the reading is over, and
// says which.
func (r *reading) sawOrEnded(t *testing.T, text string) bool {
	t.Helper()
	over := time.After(patience)
	for {
		r.mu.Lock()
		got, changed := string(r.text), r.changed
		r.mu.Unlock()
		if got == text {
			return true
		}
		select {
		case <-changed:
		case <-r.done:
			return false
		case <-over:
			t.Fatalf("the reader has %s, not %s", brief(got), brief(text))
		}
	}
}

// whole waits for the end, and returns the text.
func (r *reading) whole(t *testing.T) (string, error) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.mu.Lock()
		defer r.mu.Unlock()
		t.Fatalf("the reader does not end; it has %s", brief(string(r.text)))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text), r.err
}

func brief(text string) string {
	if len(text) > 80 {
		return fmt.Sprintf("%q… (%d bytes)", text[:80], len(text))
	}
	return fmt.Sprintf("%q", text)
}

// report is a line of what a script says of its reading.
type report struct {
	Text  string
	Reset bool
	End   bool
	Error string
}

// follow takes the reports of a script to its end.
func (r *reading) follow(from io.Reader) error {
	lines := json.NewDecoder(from)
	for {
		var line report
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return errors.New("the script ended before its reading did")
		} else if err != nil {
			return fmt.Errorf("reading the script's report: %w", err)
		}
		switch {
		case line.Error != "":
			return errors.New(line.Error)
		case line.Reset:
			r.reset()
		case line.End:
			return nil
		default:
			r.part(line.Text)
		}
	}
}
