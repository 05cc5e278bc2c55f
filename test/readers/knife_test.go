// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// knife is a TCP proxy that cuts connections.
type knife struct {
	listener net.Listener
	target   string
	serving  sync.WaitGroup

	mu    sync.Mutex
	wires map[*wire]bool
	// gate holds back new connections; nil lets them through.
	gate chan struct{}
	// left is how many bytes may still go to readers before armed is closed and
	// the connection cut; armed is nil if that is not wanted.
	left  int
	armed chan struct{}
	ended bool
}

// wire is one connection.
type wire struct{ reader, server *net.TCPConn }

// newKnife puts one before an address, until the test ends.
func newKnife(t *testing.T, target string) *knife {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &knife{listener: listener, target: target, wires: map[*wire]bool{}}
	k.serving.Go(k.serve)
	t.Cleanup(k.close)
	return k
}

// address is where readers connect.
func (k *knife) address() string { return k.listener.Addr().String() }

// cut resets every connection.
func (k *knife) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.wires {
		_ = w.reader.SetLinger(0) // a reset, and no proper end
		w.close()
	}
}

// cutAfter ends the connection that brings the n-th byte from now on right
// after it, and closes the channel then. What was sent before arrives.
func (k *knife) cutAfter(n int) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.armed = n, make(chan struct{})
	return k.armed
}

// hold lets readers connect, and no further, until it is released.
func (k *knife) hold() (release func()) {
	gate := make(chan struct{})
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gate = gate
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.gate = nil
		close(gate)
	})
}

func (k *knife) serve() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return // closed
		}
		k.serving.Go(func() { k.join(c.(*net.TCPConn)) })
	}
}

// join connects a reader with the server.
func (k *knife) join(reader *net.TCPConn) {
	w := &wire{reader: reader}
	defer w.close()
	k.mu.Lock()
	gate, ended := k.gate, k.ended
	k.mu.Unlock()
	if ended {
		return
	}
	if gate != nil {
		<-gate
	}
	c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", k.target)
	if err != nil {
		return // the reader sees its connection closed
	}
	w.server = c.(*net.TCPConn)
	k.mu.Lock()
	k.wires[w] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.wires, w)
	}()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(w.server, reader) // its end is the reader's, or ours
		w.close()
	})
	k.pass(w)
	w.close()
	up.Wait()
}

// pass sends on what the server says.
func (k *knife) pass(w *wire) {
	buffer := make([]byte, 4<<10)
	for {
		n, err := w.server.Read(buffer)
		n, cut := k.allow(n)
		if n > 0 {
			if _, err := w.reader.Write(buffer[:n]); err != nil {
				return
			}
		}
		if cut != nil {
			w.close()
			close(cut)
			return
		}
		if err != nil {
			return
		}
	}
}

// allow counts bytes for cutAfter, and says how many may pass before the cut.
func (k *knife) allow(n int) (int, chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.armed == nil || n < k.left {
		k.left -= n
		return n, nil
	}
	n, cut := k.left, k.armed
	k.armed = nil
	return n, cut
}

func (k *knife) close() {
	k.mu.Lock()
	k.ended = true
	if k.gate != nil {
		close(k.gate)
		k.gate = nil
	}
	k.mu.Unlock()
	_ = k.listener.Close()
	k.cut()
	k.serving.Wait()
}

// close ends both sides. It may be called twice.
func (w *wire) close() {
	_ = w.reader.Close()
	if w.server != nil {
		_ = w.server.Close()
	}
}
