// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/test/load/crowd"
)

const (
	// readers is how many there are in all, half of which never read.
	readers = 2000
	// patience is for what takes a moment, on a machine that is busy.
	patience = 30 * time.Second
	// stepParts is how many parts are sent before every live reader has to have
	// them: less than a log keeps, so that none of them may lose its place.
	stepParts = 10
	// spacing is the time between two parts: above the least time between two
	// writes, so that each is a write and latency is not the wish of the handler.
	spacing = 25 * time.Millisecond
	// readerMemory bounds what a reader takes of heap and stacks, on average.
	readerMemory = 48 << 10
)

// The groups of readers.
const (
	live = "live"
	dead = "dead"
	late = "late"
)

// partText is a part of 1,000 bytes that says when it was sent.
func partText() string { return crowd.Stamp() + filler }

var filler = strings.Repeat("abcdefghi ", 98)

var partLen = len(partText())

// figures are what a pass measured.
type figures struct {
	latency           crowd.Latency
	parts, deliveries int
	cpu               time.Duration
	memory            int
}

func (f figures) String() string {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("latency p50 %.2f, p99 %.2f, max %.2f ms; %.1f µs CPU for each of %d deliveries of %d parts",
		ms(f.latency.P50), ms(f.latency.P99), ms(f.latency.Max), float64(f.cpu.Microseconds())/float64(f.deliveries), f.deliveries, f.parts)
}

// compare prints what the dead cost the living.
func compare(t *testing.T, without, with figures) {
	t.Helper()
	t.Logf("without dead readers: %s", without)
	t.Logf("with as many dead:    %s", with)
	ratio := func(a, b time.Duration) float64 { return float64(a) / float64(b) }
	t.Logf("ratio: p50 %.2f, p99 %.2f, max %.2f, CPU %.2f", ratio(with.latency.P50, without.latency.P50),
		ratio(with.latency.P99, without.latency.P99), ratio(with.latency.Max, without.latency.Max), ratio(with.cpu, without.cpu))
}

// TestOneRun: 2,000 readers of one run, half of which never read, some of them
// from the beginning and some once the log has dropped its beginning.
func TestOneRun(t *testing.T) {
	needFiles(t, readers)
	without, with := oneRun(t, 0), oneRun(t, readers/2)
	compare(t, without, with)
	t.Logf("a dead reader takes %.1f KiB of heap and stacks", float64(with.memory-without.memory)/(readers/2)/1024)
}

// oneRun is one pass with half as many live readers.
func oneRun(t *testing.T, deaf int) figures {
	const (
		parts    = 200
		logBytes = 96 << 10
		alive    = readers / 2
	)
	g := NewWithT(t)
	run, before := runOf(0), measure()
	hub := streamer.NewHub()
	hub.LogBytes, hub.Grace = logBytes, 0
	server, c := serve(t, hub), crowd.Start(t)
	idle := runtime.NumGoroutine()
	join := func(name string, n int, kind crowd.Kind) {
		group := crowd.Group{Name: name, Addr: server.live.Addr().String(), Paths: slices.Repeat([]string{pathOf(run)}, n), Kind: kind}
		if kind == crowd.Dead {
			group.Addr, group.ReceiveBuffer = server.dead.Addr().String(), deadBuffer
		}
		want := hub.Readers() + n
		c.Join(group)
		g.Eventually(hub.Readers, patience).Should(Equal(want))
	}
	join(live, alive, crowd.Follow)
	join(dead, deaf/2, crowd.Dead)

	hub.Begin(run, statusOf(run, "Streaming"))
	var text strings.Builder
	most, used := 0, time.Duration(0)
	feed := func(from, to int) {
		began, tick := processTime(), time.NewTicker(spacing)
		defer tick.Stop()
		for i := from; i < to; i++ {
			<-tick.C
			part := partText()
			text.WriteString(part)
			hub.Part(run.UID, 1, provider.Part{Kind: provider.Text, Text: part})
			most = max(most, hub.Bytes())
			if (i+1)%stepParts == 0 {
				c.Await(crowd.Mark{Group: live, At: (i + 1) * partLen})
			}
		}
		used += processTime() - began
	}
	feed(0, parts-2*stepParts)
	g.Eventually(server.dead.writing.Load, patience).Should(BeEquivalentTo(deaf / 2))
	bound := logBytes + 2*parts*partLen
	reportMemory(t, before, alive+deaf/2, bound)
	join(late, deaf-deaf/2, crowd.Dead)
	feed(parts-2*stepParts, parts)
	f := figures{parts: parts, deliveries: parts * alive, cpu: used}
	// All text has come to all who read. Now those who do not hang in a write.
	g.Eventually(server.dead.writing.Load, patience).Should(BeEquivalentTo(deaf))
	if n := hub.Readers(); n != alive+deaf {
		t.Errorf("%d readers are left of %d", n, alive+deaf)
	}
	if most > logBytes || most < logBytes/2 {
		t.Errorf("the log had up to %d bytes, of %d", most, logBytes)
	}
	f.memory = reportMemory(t, before, alive+deaf, bound)

	server.source.finish(hub, run, text.String())
	report := c.End(live)
	f.latency = report.Latency
	want := sha256.Sum256([]byte(text.String()))
	for i, r := range report.Results {
		if !r.Done || r.Sum != want || r.Returns+r.Resets != 0 {
			t.Fatalf("reader %d ended with another text, was cut or lost its place: %+v", i, r)
		}
	}
	if n := hub.Readers(); n != deaf {
		t.Errorf("%d readers are left, not the %d that never read", n, deaf)
	}
	settle(t, hub, server, idle)
	return f
}

// reportMemory prints what was taken since before, now that there are n readers,
// and checks that it is bounded: by beside, for the runs, and readerMemory for
// each reader. It returns what was taken of heap and stacks.
func reportMemory(t *testing.T, before cost, n, beside int) int {
	t.Helper()
	now := measure()
	taken := now.memory() - before.memory()
	t.Logf("%d readers: %d goroutines, heap %.1f MiB, stacks %.1f MiB, resident %.1f MiB, that is %.1f KiB of heap and stacks a reader",
		n, now.goroutines-before.goroutines, mebi(now.heap-before.heap), mebi(now.stacks-before.stacks), mebi(now.resident-before.resident),
		float64(taken)/float64(n)/1024)
	if bound := beside + n*readerMemory; taken > bound {
		t.Errorf("%d bytes were taken, more than %d", taken, bound)
	}
	return taken
}

func mebi(bytes int) float64 { return float64(bytes) / (1 << 20) }

// settle lets the deadlines go, and waits until nothing is left of all readers.
func settle(t *testing.T, hub *streamer.Hub, server *server, idle int) {
	t.Helper()
	g := NewWithT(t)
	server.dead.release()
	g.Eventually(hub.Readers, patience).Should(BeZero())
	g.Eventually(hub.Bytes, patience).Should(BeZero())
	// The crowd still holds its ends open: those that never read were cut here.
	server.conns.Wait()
	g.Eventually(runtime.NumGoroutine, patience).Should(BeNumerically("<=", idle))
}
