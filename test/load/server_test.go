// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/streamer"
)

// writeTimeout is below the default, as the test waits for it, and far above what
// a busy machine may let pass between a deadline and its write.
const writeTimeout = 5 * time.Second

// deadBuffer is the size of the sockets' buffers to and at a reader that never
// reads. The kernel's own would take megabytes for each.
const deadBuffer = 4 << 10

func runOf(i int) streamer.Run {
	return streamer.Run{UID: fmt.Sprintf("uid-%d", i), Namespace: "default", Name: fmt.Sprintf("run-%d", i)}
}

func pathOf(r streamer.Run) string {
	return "/v1/namespaces/" + r.Namespace + "/chatruns/" + r.Name + "/stream"
}

func statusOf(r streamer.Run, phase string) stream.Status {
	return stream.Status{UID: r.UID, Namespace: r.Namespace, Name: r.Name, Phase: phase, Attempt: 1}
}

// source knows every run, as one that waits until it is told how it ended.
type source struct{ finished sync.Map }

func (s *source) Find(_ context.Context, namespace, name string) (streamer.View, error) {
	if v, ok := s.finished.Load(name); ok {
		return v.(streamer.View), nil
	}
	r := streamer.Run{UID: "uid" + name[len("run"):], Namespace: namespace, Name: name}
	return streamer.View{Run: r, Status: statusOf(r, "Pending")}, nil
}

func (*source) Created(string, string) (<-chan struct{}, func()) { return nil, func() {} }

// finish keeps the answer, and then tells the hub, as the controller does.
func (s *source) finish(hub *streamer.Hub, r streamer.Run, text string) {
	end := streamer.End{Done: stream.Done{Status: statusOf(r, "Succeeded")}}
	s.finished.Store(r.Name, streamer.View{Run: r, Status: end.Done.Status, Finished: true, Text: text, End: end})
	hub.Finish(r, end)
}

// server is the stream endpoint, with a door for readers that read and one for
// those that never do.
type server struct {
	http.Server
	source source
	live   net.Listener
	dead   *held
	// conns are those that are open.
	conns sync.WaitGroup
}

// serve serves a hub until the test ends.
func serve(t *testing.T, hub *streamer.Hub) *server {
	t.Helper()
	s := &server{live: listen(t), dead: &held{Listener: listen(t), conns: map[*heldConn]struct{}{}}}
	handler := streamer.NewHandler(hub, &s.source, streamer.Anyone)
	handler.WriteTimeout = writeTimeout
	s.Handler, s.ReadHeaderTimeout = handler, time.Minute
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.conns.Add(1)
		case http.StateClosed:
			s.conns.Done()
		}
	}
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(s.live) })
	served.Go(func() { _ = s.Serve(s.dead) })
	t.Cleanup(func() {
		_ = s.Close()
		served.Wait()
	})
	return s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// held is a listener whose connections keep their write deadlines back. So
// those who never read hang until the test lets go, however slow the machine,
// and are then cut by the deadline that the handler set.
type held struct {
	net.Listener
	// writing counts the writes that have not returned.
	writing atomic.Int64

	mu       sync.Mutex
	released bool
	conns    map[*heldConn]struct{}
}

// heldConn is one of them.
type heldConn struct {
	*net.TCPConn
	held     *held
	deadline time.Time // guarded by held.mu
}

func (h *held) Accept() (net.Conn, error) {
	conn, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &heldConn{TCPConn: conn.(*net.TCPConn), held: h}
	if err := c.SetWriteBuffer(deadBuffer); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[c] = struct{}{}
	return c, nil
}

func (c *heldConn) Write(b []byte) (int, error) {
	c.held.writing.Add(1)
	defer c.held.writing.Add(-1)
	return c.TCPConn.Write(b)
}

func (c *heldConn) SetWriteDeadline(t time.Time) error {
	c.held.mu.Lock()
	defer c.held.mu.Unlock()
	c.deadline = t
	if !c.held.released {
		return nil
	}
	return c.TCPConn.SetWriteDeadline(t)
}

// release lets all deadlines go.
func (h *held) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = true
	for c := range h.conns {
		_ = c.TCPConn.SetWriteDeadline(c.deadline)
	}
}
