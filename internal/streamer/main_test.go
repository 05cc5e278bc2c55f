// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var hello = Run{UID: "uid-1", Namespace: "default", Name: "hello"}

const helloPath = "/v1/namespaces/default/chatruns/hello/stream"

func statusOf(run Run, phase string, attempt int32) stream.Status {
	return stream.Status{UID: run.UID, Namespace: run.Namespace, Name: run.Name, Phase: phase, Attempt: attempt}
}

func text(s string) provider.Part { return provider.Part{Kind: provider.Text, Text: s} }

func endOf(run Run, phase string, attempt int32) End {
	return End{
		Usage: &stream.Usage{InputTokens: 1, OutputTokens: 2},
		Done:  stream.Done{Status: statusOf(run, phase, attempt)},
	}
}

// source is a Source by function.
type source func() (View, error)

func (s source) Find(context.Context, string, string) (View, error) { return s() }

func (s source) Created(string, string) (<-chan struct{}, func()) { return nil, func() {} }

func views(v View) source { return func() (View, error) { return v, nil } }

// shelf is a Source that can be changed, and tells of it.
type shelf struct {
	mu      sync.Mutex
	view    View
	err     error
	waiting []chan struct{}
}

func (s *shelf) put(v View, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view, s.err = v, err
	for _, c := range s.waiting {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (s *shelf) Created(string, string) (<-chan struct{}, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{}, 1)
	s.waiting = append(s.waiting, c)
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting = slices.DeleteFunc(s.waiting, func(other chan struct{}) bool { return other == c })
	}
}

func (s *shelf) Find(context.Context, string, string) (View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view, s.err
}

// received is one event as a reader sees it.
type received struct {
	id, event, data string
}

func (e received) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(e.data), v); err != nil {
		t.Errorf("event %s: %v", e.event, err)
	}
}

// parse reads whole events, and skips comments.
func parse(raw string) []received {
	var all []received
	for block := range strings.SplitSeq(raw, "\n\n") {
		var e received
		for line := range strings.SplitSeq(block, "\n") {
			field, value, _ := strings.Cut(line, ": ")
			switch field {
			case "id":
				e.id = value
			case "event":
				e.event = value
			case "data":
				e.data = value
			}
		}
		if e.event != "" {
			all = append(all, e)
		}
	}
	return all
}

func names(events []received) string {
	var all []string
	for _, e := range events {
		all = append(all, e.event)
	}
	return strings.Join(all, " ")
}

// client is a naive one: it appends what it is given, drops its draft on reset,
// and looks for parts that it should never see.
type client struct {
	t       testing.TB
	draft   string
	retried int32
	title   string
	done    bool
	events  []received
}

func (c *client) read(raw string) {
	for _, e := range parse(raw) {
		c.apply(e)
	}
}

func (c *client) apply(e received) {
	if c.done {
		c.t.Errorf("%s after done", e.event)
	}
	c.events = append(c.events, e)
	switch stream.Name(e.event) {
	case stream.EventReset:
		c.draft = ""
	case stream.EventRetry:
		var r stream.Retry
		e.into(c.t, &r)
		c.retried = r.Attempt
	case stream.EventMessagePart:
		var m stream.MessagePart
		e.into(c.t, &m)
		c.draft += m.Text
		if at, ok := parseCursor(e.id); !ok || at.attempt <= c.retried {
			c.t.Errorf("a part with id %q after the retry of attempt %d", e.id, c.retried)
		}
	case stream.EventTitle:
		var m stream.Title
		e.into(c.t, &m)
		c.title = m.Title
	case stream.EventStatus:
		var s stream.Status
		e.into(c.t, &s)
		if s.Title != "" {
			c.title = s.Title
		}
	case stream.EventDone:
		c.done = true
	}
}

// recorder is a ResponseWriter without a connection. While its gate is there,
// writes wait for it to be closed.
type recorder struct {
	header http.Header
	gate   chan struct{}

	mu      sync.Mutex
	code    int
	raw     bytes.Buffer
	flushes int
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.code = code
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.raw.Write(b)
}

func (r *recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes++
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.raw.String()
}

func (r *recorder) Flushes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flushes
}

func request(ctx context.Context, last string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, helloPath, nil)
	if err != nil {
		panic(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	return r
}

// pipes is a listener whose connections are in memory, so that a bubble of
// synctest can hold both their ends.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

func (p *pipes) dial(t *testing.T) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	select {
	case p.conns <- server:
	case <-p.closed:
		t.Fatal("the listener is closed")
	}
	return client
}

// get sends a request over a connection of its own and returns the answer.
func (p *pipes) get(t *testing.T, last string) (*http.Response, net.Conn) {
	t.Helper()
	conn := p.dial(t)
	r := request(t.Context(), last)
	r.URL.Host = "memory"
	r.URL.Scheme = "http"
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		t.Fatal(err)
	}
	return answer, conn
}

// serve serves h over pipes until the test ends.
func serve(t *testing.T, h http.Handler) (*http.Server, *pipes) {
	t.Helper()
	p := newPipes()
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(p) })
	t.Cleanup(func() {
		_ = server.Close()
		served.Wait()
	})
	return server, p
}

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}

func retryOf(attempt int32) stream.Retry {
	return stream.Retry{Attempt: attempt, DelayMs: 1000, Error: "Overloaded", RetryingAt: time.Unix(0, 0).UTC()}
}
