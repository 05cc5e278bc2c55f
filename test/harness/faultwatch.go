// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// maxHold is how long an event may wait to be overtaken by the next one.
const maxHold = 30 * time.Millisecond

// WatchFaults says what happens to the lines of a watch, each as a share of 1.
// The events of one object keep their order, and none is lost for good: the API
// server guarantees both. A client that resumes after a cut is sent what it
// missed, and may be sent again what it saw.
type WatchFaults struct {
	// Cut ends the watch: cleanly, abruptly, or in the middle of the line.
	Cut float64
	// Double sends a MODIFIED event twice.
	Double float64
	// Swap lets the next event of another object overtake a MODIFIED one.
	Swap float64
	// Late holds back this event and all behind it, up to MaxLate.
	Late    float64
	MaxLate time.Duration
}

var errCut = errors.New("the watch was cut")

func isWatch(r *http.Request) bool {
	watch := r.URL.Query().Get("watch")
	return r.Method == http.MethodGet && (watch == "true" || watch == "1")
}

// modify puts the faults between the API server and a watch.
func (p *FaultProxy) modify(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK || !isWatch(resp.Request) || !concerned(resp.Request.URL.Path) || p.faults.Watch == (WatchFaults{}) {
		return nil
	}
	resp.Body = p.watched(resp.Body)
	return nil
}

// watched is body with the faults of a watch.
func (p *FaultProxy) watched(body io.ReadCloser) io.ReadCloser {
	out, in := io.Pipe()
	w := &watched{
		PipeReader: out, upstream: body, stop: make(chan struct{}),
		in: in, lines: make(chan []byte), proxy: p,
	}
	go w.read()
	go w.pass()
	return w
}

// watched is a watch under way.
type watched struct {
	*io.PipeReader

	upstream io.ReadCloser
	stop     chan struct{}
	once     sync.Once
	in       *io.PipeWriter
	lines    chan []byte
	proxy    *FaultProxy

	// held waits to be overtaken.
	held []byte
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.once.Do(func() { close(w.stop) })
	return errors.Join(w.PipeReader.Close(), w.upstream.Close())
}

// read takes the lines apart.
func (w *watched) read() {
	defer close(w.lines)
	from := bufio.NewReader(w.upstream)
	for {
		line, err := from.ReadBytes('\n')
		if err != nil {
			return
		}
		select {
		case w.lines <- line:
		case <-w.stop:
			return
		}
	}
}

// pass sends the lines on, as the dice will have it, until the watch ends or
// nobody reads it any more.
func (w *watched) pass() {
	hold := time.NewTimer(maxHold)
	defer hold.Stop()
	for {
		var err error
		select {
		case <-hold.C:
			err = w.release()
		case line, more := <-w.lines:
			if more {
				err = w.line(line)
			} else if err = w.release(); err == nil {
				err = io.EOF
			}
			hold.Reset(maxHold)
		}
		if err != nil {
			_ = w.in.CloseWithError(err) // it never fails
			return
		}
	}
}

// line sends one line on, and returns why the watch ends, io.EOF for a clean end.
func (w *watched) line(line []byte) error {
	p, f := w.proxy, w.proxy.faults.Watch
	if p.roll(f.Late) {
		p.count(func(c *FaultCounts) { c.Late++ })
		pause(p.upTo(f.MaxLate), w.stop)
	}
	if p.roll(f.Cut) {
		p.count(func(c *FaultCounts) { c.WatchCuts++ })
		return w.cut(line)
	}
	this := parse(line)
	switch {
	case w.held == nil && this.modified && p.roll(f.Swap):
		w.held = line
		return nil
	case w.held != nil && this.modified && this.object != parse(w.held).object:
		p.count(func(c *FaultCounts) { c.Swapped++ })
		if err := w.emit(line); err != nil {
			return err
		}
		return w.release()
	}
	if err := w.release(); err != nil {
		return err
	}
	if this.modified && p.roll(f.Double) {
		p.count(func(c *FaultCounts) { c.Doubled++ })
		if err := w.emit(line); err != nil {
			return err
		}
	}
	return w.emit(line)
}

// cut ends the watch. What was held goes out first: what followed it may have
// been seen already, and a client that resumes there would never see it.
func (w *watched) cut(line []byte) error {
	if err := w.release(); err != nil {
		return err
	}
	switch {
	case w.proxy.roll(0.3):
		return io.EOF
	case w.proxy.roll(0.5):
		if err := w.emit(line[:len(line)/2]); err != nil {
			return err
		}
	}
	return errCut
}

func (w *watched) release() error {
	if w.held == nil {
		return nil
	}
	line := w.held
	w.held = nil
	return w.emit(line)
}

func (w *watched) emit(line []byte) error {
	_, err := w.in.Write(line)
	return err
}

// event is what a line of a watch tells.
type event struct {
	modified bool
	object   string
}

func parse(line []byte) event {
	var e struct {
		Type   string
		Object struct {
			Metadata struct{ Namespace, Name string }
		}
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return event{} // it passes as it is
	}
	return event{e.Type == "MODIFIED", e.Object.Metadata.Namespace + "/" + e.Object.Metadata.Name}
}
