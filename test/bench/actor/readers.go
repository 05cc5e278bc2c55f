// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"chatrun.dev/operator/test/bench/figures"
	"chatrun.dev/operator/test/bench/meter"
)

const (
	// dials is how many readers join at a time, so that no server's queue of new
	// connections overflows.
	dials = 32
	// readBuffer holds some frames: a reader that lags reads several at once.
	readBuffer = 4 << 10
	// dialTimeout is for a machine that is busy.
	dialTimeout = 30 * time.Second
	// look is how often somebody who waits for readers looks at them.
	look = 20 * time.Millisecond
)

// Group is readers that join and leave together.
type Group struct {
	Name, Addr string
	// Paths has one for each reader.
	Paths []string
}

// Mark is a place that every reader of a group is to reach: so many stamps.
type Mark struct {
	Group string
	Each  int64
	// Within bounds the wait.
	Within time.Duration
}

// Window is what the readers of a group got while it was open.
type Window struct {
	// Tokens are the stamps, Reads the pieces they came in.
	Tokens, Reads int64
	Took          time.Duration
	Latency       figures.Latency
}

// Readers reads streams as cheaply as can be: it looks for stamps, in any form.
type Readers struct {
	mu     sync.Mutex
	groups map[string]*group
}

func newReaders() *Readers { return &Readers{groups: map[string]*group{}} }

type group struct {
	readers []*reader
	reading sync.WaitGroup
	// open says that what comes counts; opened is since when.
	open    atomic.Bool
	opened  time.Duration
	leaving atomic.Bool
	// lost counts the readers that ended before they left.
	lost atomic.Int64
	why  atomic.Value
}

// reader is one. Its own goroutine alone writes to it, under mu.
type reader struct {
	conn net.Conn

	mu            sync.Mutex
	tokens        int64
	reads, inside int64
	latencies     []time.Duration
}

// Join returns when every reader of a group has sent its request.
func (r *Readers) Join(g Group, _ *None) error {
	joined := &group{readers: make([]*reader, len(g.Paths))}
	var failed error
	var once sync.Once
	var work sync.WaitGroup
	for worker := range dials {
		work.Go(func() {
			for i := worker; i < len(g.Paths); i += dials {
				conn, err := request(g.Addr, g.Paths[i])
				if err != nil {
					once.Do(func() { failed = fmt.Errorf("reader %d of %s: %w", i, g.Name, err) })
					return
				}
				joined.readers[i] = &reader{conn: conn}
			}
		})
	}
	work.Wait()
	if failed != nil {
		return failed
	}
	for _, reader := range joined.readers {
		joined.reading.Go(func() { joined.read(reader) })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups[g.Name] = joined
	return nil
}

func request(addr, path string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, addr)
	return conn, err
}

// good is how an answer begins that is none of an error.
var good = []byte("HTTP/1.1 200")

// read reads one answer until its connection is closed.
func (g *group) read(r *reader) {
	buf := make([]byte, readBuffer)
	var found stamps
	n, err := r.conn.Read(buf)
	if err == nil && !bytes.HasPrefix(buf[:n], good) {
		line, _, _ := bytes.Cut(buf[:n], []byte("\r\n"))
		err = fmt.Errorf("it was answered %q", line)
	}
	for ; err == nil; n, err = r.conn.Read(buf) {
		g.take(r, &found, buf[:n])
	}
	if !g.leaving.Load() {
		g.why.CompareAndSwap(nil, err.Error())
		g.lost.Add(1)
	}
}

// take counts what came.
func (g *group) take(r *reader, found *stamps, piece []byte) {
	now, open := meter.Monotonic(), g.open.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.tokens
	found.next(piece, func(sent time.Duration) {
		r.tokens++
		// What was sent before the window opened was perhaps read late for that.
		if open && sent >= g.opened {
			r.latencies = append(r.latencies, now-sent)
		}
	})
	if open {
		r.inside += r.tokens - before
		r.reads++
	}
}

// Await returns when every reader has so many stamps.
func (r *Readers) Await(m Mark, _ *None) error {
	g, err := r.find(m.Group)
	if err != nil {
		return err
	}
	tick, late := time.NewTicker(look), time.After(m.Within)
	defer tick.Stop()
	for {
		behind := 0
		for _, reader := range g.readers {
			reader.mu.Lock()
			if reader.tokens < m.Each {
				behind++
			}
			reader.mu.Unlock()
		}
		if behind == 0 {
			return nil
		}
		if err := g.whole(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("%d of %d readers have not had %d parts within %s", behind, len(g.readers), m.Each, m.Within)
		}
	}
}

// whole is the error of a group that has lost readers.
func (g *group) whole() error {
	if lost := g.lost.Load(); lost > 0 {
		return fmt.Errorf("%d of %d readers were cut, the first with: %v", lost, len(g.readers), g.why.Load())
	}
	return nil
}

// Open begins to count.
func (r *Readers) Open(name string, _ *None) error {
	g, err := r.find(name)
	if err != nil {
		return err
	}
	for _, reader := range g.readers {
		reader.mu.Lock()
		reader.inside, reader.reads, reader.latencies = 0, 0, nil
		reader.mu.Unlock()
	}
	g.opened = meter.Monotonic()
	g.open.Store(true)
	return nil
}

// Shut ends that, and says what came. A reader that was cut is an error: then
// figures are not of what was meant.
func (r *Readers) Shut(name string, w *Window) error {
	g, err := r.find(name)
	if err != nil {
		return err
	}
	g.open.Store(false)
	w.Took = meter.Monotonic() - g.opened
	var all []time.Duration
	for _, reader := range g.readers {
		reader.mu.Lock()
		w.Tokens, w.Reads = w.Tokens+reader.inside, w.Reads+reader.reads
		all = append(all, reader.latencies...)
		reader.mu.Unlock()
	}
	w.Latency = figures.LatencyOf(all)
	return g.whole()
}

// Leave closes all connections of a group.
func (r *Readers) Leave(name string, _ *None) error {
	g, err := r.find(name)
	if err != nil {
		return err
	}
	g.leaving.Store(true)
	for _, reader := range g.readers {
		_ = reader.conn.Close()
	}
	g.reading.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.groups, name)
	return nil
}

func (r *Readers) find(name string) (*group, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[name]; g != nil {
		return g, nil
	}
	return nil, errors.New("no group " + name)
}
