// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package crowd holds thousands of readers of streams in a process of their
// own, so that what they cost is not counted with what the server costs.
package crowd

import (
	"crypto/sha256"
	"errors"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"testing"
	"time"
)

// role is set in the environment of a process that is a crowd.
const role = "CHATRUN_CROWD"

// service is the crowd's name in calls to its process.
const service = "Crowd"

// Kind is what a reader does with what it is sent.
type Kind int

const (
	// Follow reads events, and keeps a digest of the text. As any EventSource
	// does, it comes back if it is cut before the last one.
	Follow Kind = iota
	// Drain reads as cheaply as can be, and counts frames.
	Drain
	// Dead sends its request and never reads.
	Dead
)

// Group is readers that join, are awaited and leave together.
type Group struct {
	Name string
	// Addr is the server's host and port.
	Addr string
	// Paths has one for each reader.
	Paths []string
	Kind  Kind
	// ReceiveBuffer, if not 0, is the size of each socket's.
	ReceiveBuffer int
	// CA, if not empty, is the certificate of a server that speaks TLS. With
	// Streams such readers share a connection of HTTP/2; 0 is HTTP/1.1. They
	// Drain.
	CA      []byte
	Streams int
}

// Result is what one reader ended with.
type Result struct {
	// Sum is the digest of the text after the last reset.
	Sum [sha256.Size]byte
	// Done says that the last event was done, and the answer ended properly.
	Done bool
	// Returns counts the times that it was cut and came back, Resets those that it
	// lost its place.
	Returns, Resets int
	// Frames counts the events.
	Frames int
}

// Report is how a group ended.
type Report struct {
	// Results are in the order of the group's paths.
	Results []Result
	// Latency is over all parts that came in their turn, from their stamp on.
	Latency Latency
}

// Latency is a distribution.
type Latency struct {
	Count         int
	P50, P99, Max time.Duration
}

// Mark is a place that every reader of a group is to reach: bytes of text for
// those that Follow, frames for those that Drain.
type Mark struct {
	Group string
	At    int
}

// Crowd is the process, as seen from that of the server.
type Crowd struct {
	tb    testing.TB
	calls *rpc.Client
}

// Main makes this process a crowd, if Start is what began it, and does not
// return then. A test binary that uses Start calls it before anything else.
func Main() {
	if os.Getenv(role) == "" {
		return
	}
	calls := rpc.NewServer()
	if err := calls.RegisterName(service, &process{groups: map[string]*group{}}); err != nil {
		panic(err)
	}
	// It ends with the process that began it.
	calls.ServeConn(duplex{os.Stdin, os.Stdout})
	os.Exit(0)
}

// Start starts a crowd, which ends with the test.
func Start(tb testing.TB) *Crowd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), self)
	cmd.Env = append(os.Environ(), role+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c := &Crowd{tb: tb, calls: rpc.NewClient(duplex{out, in})}
	tb.Cleanup(func() {
		_ = c.calls.Close()
		_ = cmd.Wait()
	})
	return c
}

// Join lets a group join. It returns when every reader has sent its request,
// and every one that reads has the header of its answer.
func (c *Crowd) Join(g Group) { c.call("Join", g, new(bool)) }

// Await returns when every reader of a group has reached a mark.
func (c *Crowd) Await(m Mark) { c.call("Await", m, new(bool)) }

// End returns when every reader of a group was sent all, and forgets the group.
func (c *Crowd) End(name string) Report {
	var r Report
	c.call("End", name, &r)
	return r
}

// Leave closes the connections of a group, and forgets it.
func (c *Crowd) Leave(name string) { c.call("Leave", name, new(bool)) }

func (c *Crowd) call(method string, args, reply any) {
	c.tb.Helper()
	if err := c.calls.Call(service+"."+method, args, reply); err != nil {
		c.tb.Fatalf("%s: %v", method, err)
	}
}

// duplex is a pair of pipes as one connection.
type duplex struct {
	io.ReadCloser
	w io.WriteCloser
}

// Write implements io.Writer.
func (d duplex) Write(b []byte) (int, error) { return d.w.Write(b) }

// Close implements io.Closer.
func (d duplex) Close() error { return errors.Join(d.w.Close(), d.ReadCloser.Close()) }
