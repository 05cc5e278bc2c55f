// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/sha256"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/test/load/crowd"
)

// model is a provider whose answers all have their next part at the same time.
type model struct {
	hub *streamer.Hub
	// parts has a channel for each part, which is closed when that is to come.
	parts []chan struct{}
	// most is what the hub held at most, as seen after each part of each run.
	most atomic.Int64
}

func (m *model) Stream(ctx context.Context, _ provider.Endpoint, _ provider.Request, part func(provider.Part)) (provider.Result, error) {
	for _, now := range m.parts {
		select {
		case <-now:
		case <-ctx.Done():
			return provider.Result{}, context.Cause(ctx)
		}
		part(provider.Part{Kind: provider.Text, Text: partText()})
		held := int64(m.hub.Bytes())
		for most := m.most.Load(); held > most && !m.most.CompareAndSwap(most, held); most = m.most.Load() {
		}
	}
	return provider.Result{FinishReason: provider.FinishStop}, nil
}

func (*model) Complete(context.Context, provider.Endpoint, provider.Request) (string, provider.Result, error) {
	return "", provider.Result{}, errors.New("no title is wanted")
}

// TestManyRuns: 2,000 runs that stream at once, with a reader each, half of
// which never read.
func TestManyRuns(t *testing.T) {
	needFiles(t, readers)
	without := manyRuns(t, false)
	compare(t, without, manyRuns(t, true))
}

// manyRuns is one pass with readers for the first half of the runs, and for the
// others readers that never read, or none.
func manyRuns(t *testing.T, deaf bool) figures {
	const (
		parts      = 60
		logBytes   = 48 << 10
		totalBytes = 32 << 20
		alive      = readers / 2
	)
	g := NewWithT(t)
	before := measure()
	hub := streamer.NewHub()
	hub.LogBytes, hub.TotalBytes, hub.Grace = logBytes, totalBytes, 0
	server, c := serve(t, hub), crowd.Start(t)
	idle := runtime.NumGoroutine()
	var paths []string
	for i := range readers {
		paths = append(paths, pathOf(runOf(i)))
	}
	c.Join(crowd.Group{Name: live, Addr: server.live.Addr().String(), Paths: paths[:alive]})
	n := alive
	if deaf {
		n = readers
		c.Join(crowd.Group{Name: dead, Addr: server.dead.Addr().String(), Paths: paths[alive:], Kind: crowd.Dead, ReceiveBuffer: deadBuffer})
	}
	g.Eventually(hub.Readers, patience).Should(Equal(n))

	m := &model{hub: hub}
	for range parts {
		m.parts = append(m.parts, make(chan struct{}))
	}
	var ended sync.WaitGroup
	ended.Add(readers)
	pool := streamer.NewPool(m, hub, func(streamer.Run) { ended.Done() })
	for i := range readers {
		hub.Begin(runOf(i), statusOf(runOf(i), "Streaming"))
		if err := pool.Start(streamer.Attempt{Run: runOf(i), Number: 1}); err != nil {
			t.Fatal(err)
		}
	}
	used := processTime()
	m.play(c)
	f := figures{parts: parts * readers, deliveries: parts * alive, cpu: processTime() - used}
	ended.Wait()
	if deaf {
		g.Eventually(server.dead.writing.Load, patience).Should(BeEquivalentTo(readers - alive))
	}
	if got := hub.Readers(); got != n {
		t.Errorf("%d readers are left of %d", got, n)
	}
	// Each run may have one part in hand that the bound has not met yet.
	most, slack := int(m.most.Load()), readers*2*partLen
	t.Logf("the logs had up to %.2f MiB, of %.0f", mebi(most), mebi(totalBytes))
	if most > totalBytes+slack || most < totalBytes/2 {
		t.Errorf("the logs had up to %d bytes, of %d", most, totalBytes)
	}
	// A run's text is in its outcome and in its log, in buffers that grow by half.
	reportMemory(t, before, n, totalBytes+3*readers*parts*partLen)
	f.latency = finish(t, hub, server, pool, c)
	settle(t, hub, server, idle)
	return f
}

// play lets the model say everything, no faster than every live reader reads.
func (m *model) play(c *crowd.Crowd) {
	tick := time.NewTicker(manySpacing)
	defer tick.Stop()
	for i, part := range m.parts {
		<-tick.C
		close(part)
		if (i+1)%manyStep == 0 {
			c.Await(crowd.Mark{Group: live, At: (i + 1) * partLen})
		}
	}
}

// Of many runs, 2,000 parts come at a time.
const (
	manySpacing = 75 * time.Millisecond
	manyStep    = 4
)

// finish ends all runs, and checks that who reads has the text of the outcome.
func finish(t *testing.T, hub *streamer.Hub, server *server, pool *streamer.Pool, c *crowd.Crowd) crowd.Latency {
	t.Helper()
	var sums [readers][sha256.Size]byte
	for i := range readers {
		run := runOf(i)
		s, ok := pool.Look(run.Namespace, run.Name)
		if !ok || s.Outcome == nil || !s.Outcome.Good() {
			t.Fatalf("run %d has no answer", i)
		}
		sums[i] = sha256.Sum256([]byte(s.Outcome.Text))
		pool.Settle(run.UID)
		pool.Forget(run.UID)
		server.source.finish(hub, run, s.Outcome.Text)
	}
	if err := pool.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	report, resets, returns := c.End(live), 0, 0
	for i, r := range report.Results {
		resets, returns = resets+r.Resets, returns+r.Returns
		if !r.Done || r.Sum != sums[i] {
			t.Fatalf("reader %d ended with another text: %+v", i, r)
		}
	}
	t.Logf("live readers were cut and came back %d times, and lost their place %d times", returns, resets)
	return report.Latency
}
