// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/test/load/crowd"
)

// The readers of BenchmarkDelivery are another process of this binary.
func init() { crowd.Main() }

const (
	// minRounds is how many rounds a median is of at least.
	minRounds = 5
	// turns is how often the two alternate in a round, so that whatever else the
	// machine does meets both.
	turns = 8
	// A turn is as long as this, if parts come as from a model, and else so many
	// deliveries, of at most so many parts: what fits into sockets, so that no
	// write waits. Then the readers have to have it all.
	turnTime       = 400 * time.Millisecond
	turnDeliveries = 8000
	maxAhead       = 64
	// fast and slow are the times between two parts of models that are so: the
	// first is below DefaultMinInterval, the second above.
	fast = 5 * time.Millisecond
	slow = 25 * time.Millisecond
)

// BenchmarkDelivery is the CPU time that a part costs this process for each of n
// readers, over TCP and net/http, from its append to the last write, against
// that of a bare loop which writes the same bytes, those of the chunked encoding
// included, to as many sockets of the same kind. In "every", parts come as fast
// as they are written, each by itself. In the others they come as from a model,
// to the bare loop as well, and the handler has its defaults: those of a fast
// one share writes. The readers live in a process of their own. The two take
// turns; figures are medians.
func BenchmarkDelivery(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("every/%d", n), func(b *testing.B) { compare(b, n, 0) })
		b.Run(fmt.Sprintf("fast/%d", n), func(b *testing.B) { compare(b, n, fast) })
		b.Run(fmt.Sprintf("slow/%d", n), func(b *testing.B) { compare(b, n, slow) })
	}
}

func compare(b *testing.B, n int, each time.Duration) {
	c := crowd.Start(b)
	bare := newBareLoop(b, c, n)
	ours := newDelivery(b, c, n, each > 0)
	alternate := turns
	if each > 0 {
		alternate = 1
	}
	var floor, cost, ratio []float64
	round := func() {
		var bareTime, ourTime meter
		ours.begin()
		for range alternate {
			bare.turn(&bareTime, each)
			ours.turn(&ourTime, each)
		}
		floor = append(floor, bareTime.mean())
		cost = append(cost, ourTime.mean())
		ratio = append(ratio, ourTime.mean()/bareTime.mean())
	}
	for b.Loop() {
		round()
	}
	for len(floor) < minRounds {
		round()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(floor), "bare-µs/delivery")
	b.ReportMetric(median(cost), "µs/delivery")
	b.ReportMetric(median(ratio), "x-of-bare")
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// The groups of readers.
const (
	bareGroup = "bare"
	ourGroup  = "ours"
)

// drains is n readers of hello that count frames.
func drains(name, addr string, n int) crowd.Group {
	return crowd.Group{Name: name, Addr: addr, Paths: slices.Repeat([]string{helloPath}, n), Kind: crowd.Drain}
}

// feed delivers the parts of a turn to n readers, one each so often, and
// returns how many they were.
func feed(n int, each time.Duration, deliver func()) (parts int) {
	if each == 0 {
		parts = min(turnDeliveries/n, maxAhead)
		for range parts {
			deliver()
		}
		return parts
	}
	tick := time.NewTicker(each)
	defer tick.Stop()
	for ; parts < int(turnTime/each); parts++ {
		<-tick.C
		deliver()
	}
	return parts
}

// meter adds up the CPU time that this process used for deliveries.
type meter struct {
	used, began time.Duration
	deliveries  int
}

func (m *meter) start() { m.began = processTime() }

func (m *meter) stop(deliveries int) {
	m.used += processTime() - m.began
	m.deliveries += deliveries
}

// mean is the time of a delivery, in µs.
func (m *meter) mean() float64 { return float64(m.used.Nanoseconds()) / 1000 / float64(m.deliveries) }

func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareLoop is the floor.
type bareLoop struct {
	b     *testing.B
	crowd *crowd.Crowd
	conns []net.Conn
	wire  []byte
	sent  int
}

func newBareLoop(b *testing.B, c *crowd.Crowd, n int) *bareLoop {
	b.Helper()
	// The cursor has the digits of one in the middle of the benchmark.
	frame := event(cursor{newEpoch(), 1, 5000}, stream.EventMessagePart, encode(messagePart(text(" token").Kind, " token")))
	loop := &bareLoop{b: b, crowd: c, wire: fmt.Appendf(nil, "%x\r\n%s\r\n", len(frame), frame)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var accepted sync.WaitGroup
	accepted.Go(func() {
		for range n {
			conn, err := listener.Accept()
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				b.Error(err)
			}
			loop.conns = append(loop.conns, conn)
		}
	})
	c.Join(drains(bareGroup, listener.Addr().String(), n))
	accepted.Wait()
	b.Cleanup(func() {
		for _, conn := range loop.conns {
			_ = conn.Close()
		}
		_ = listener.Close()
	})
	return loop
}

// turn writes the parts of one turn.
func (l *bareLoop) turn(m *meter, each time.Duration) {
	m.start()
	parts := feed(len(l.conns), each, func() {
		for _, conn := range l.conns {
			if _, err := conn.Write(l.wire); err != nil {
				l.b.Fatal(err)
			}
		}
	})
	m.stop(parts * len(l.conns))
	l.sent += parts
	l.crowd.Await(crowd.Mark{Group: bareGroup, At: l.sent})
}

// delivery is the hub, the handler and a server.
type delivery struct {
	crowd *crowd.Crowd
	hub   *Hub
	paced bool
	n     int
	sent  int
	// attempt is above 1, so that it begins with a reset.
	attempt int32
	// writes counts those to all sockets. Each that makes n more of them tells
	// wrote.
	writes atomic.Int64
	wrote  chan struct{}
}

func newDelivery(b *testing.B, c *crowd.Crowd, n int, paced bool) *delivery {
	b.Helper()
	d := &delivery{crowd: c, hub: NewHub(), paced: paced, n: n, attempt: 1, wrote: make(chan struct{}, 1)}
	handler := NewHandler(d.hub, views(View{Run: hello, Status: statusOf(hello, "Pending", 0)}), Anyone)
	if !paced {
		handler.MinInterval, d.hub.perReader = 0, 0
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(counting{listener, d}) })
	b.Cleanup(func() {
		_ = server.Close()
		served.Wait()
	})
	c.Join(drains(ourGroup, listener.Addr().String(), n))
	d.delivered(2) // a hint and the status
	return d
}

// delivered waits until all readers were written to, or, where that may take
// them any number of writes, have so many more frames.
func (d *delivery) delivered(frames int) {
	d.sent += frames
	if d.paced {
		d.crowd.Await(crowd.Mark{Group: ourGroup, At: d.sent})
	} else {
		<-d.wrote
	}
}

// begin begins an attempt, so that the log does not grow for ever.
func (d *delivery) begin() {
	d.attempt++
	d.hub.Begin(hello, statusOf(hello, "Streaming", d.attempt))
	d.delivered(2) // the status and a reset
}

// turn delivers the parts of one turn.
func (d *delivery) turn(m *meter, each time.Duration) {
	m.start()
	parts := feed(d.n, each, func() {
		d.hub.Part(hello.UID, d.attempt, text(" token"))
		if !d.paced {
			d.delivered(1)
		}
	})
	if d.paced {
		d.delivered(parts)
	}
	m.stop(parts * d.n)
	d.crowd.Await(crowd.Mark{Group: ourGroup, At: d.sent})
}

// counting counts the writes to a delivery's sockets.
type counting struct {
	net.Listener
	delivery *delivery
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	return countedConn{conn, c.delivery}, err
}

type countedConn struct {
	net.Conn
	delivery *delivery
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if d := c.delivery; !d.paced && d.writes.Add(1)%int64(d.n) == 0 {
		d.wrote <- struct{}{}
	}
	return n, err
}
