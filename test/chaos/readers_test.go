// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/test/harness"
)

// silence is how long a reader waits for a byte before it goes elsewhere: longer
// than a heartbeat.
const silence = 20 * time.Second

// readers read runs, each one, now at one replica and then at another.
type readers struct {
	world  *world
	doors  []string
	work   sync.WaitGroup
	cursor atomic.Int64

	mu   sync.Mutex
	ends []reading
}

// reading is what one of them came to.
type reading struct {
	run           string
	draft         harness.Draft
	connects, cut int
	problem       error
}

// startReaders starts one for every n-th run of total.
func (w *world) startReaders(ctx context.Context, total, every int, replicas ...*harness.Process) *readers {
	r := &readers{world: w}
	for _, p := range replicas {
		r.doors = append(r.doors, p.Stream)
	}
	for n := 0; n < total; n += every {
		r.work.Go(func() {
			end := r.read(ctx, n)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.ends = append(r.ends, end)
		})
	}
	return r
}

// read reads a run to its end, as a client does that keeps its place and knows all
// replicas.
func (r *readers) read(ctx context.Context, n int) reading {
	end := reading{run: runName(n)}
	last := ""
	for ctx.Err() == nil && end.draft.Done == nil {
		door := r.doors[int(r.cursor.Add(1))%len(r.doors)]
		end.connects++
		err := r.connect(ctx, harness.StreamURL(door, r.world.namespace, end.run)+"?wait=5m", last, func(f harness.Frame) {
			if f.ID != "" {
				last = f.ID
			}
			if err := end.draft.Take(f); err != nil {
				end.problem = err
			}
		})
		if err != nil {
			end.cut++
		}
	}
	if end.draft.Done == nil {
		end.problem = errors.Join(end.problem, context.Cause(ctx))
	}
	return end
}

// connect reads until the stream ends, or is silent.
func (r *readers) connect(ctx context.Context, url, last string, frame func(harness.Frame)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	guard := time.AfterFunc(silence, cancel)
	defer guard.Stop()
	began := false
	err := harness.Read(ctx, url, last, func(f harness.Frame) {
		began = true
		guard.Reset(silence)
		frame(f)
	})
	if err != nil && !began {
		// Nobody is there, or knows of the run: not again at once.
		pause := time.NewTimer(100 * time.Millisecond)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	return err
}

// all waits for the end of all, and checks that each has the text of its run, and
// never got a part of an attempt that had failed.
func (r *readers) all() string {
	GinkgoHelper()
	r.work.Wait()
	connects, cut, resets := 0, 0, 0
	for _, end := range r.ends {
		Expect(end.problem).NotTo(HaveOccurred(), end.run)
		Expect(end.draft.Stale).To(BeZero(), "%s: parts after a retry", end.run)
		Expect(end.draft.Text).To(Equal(r.world.script.text("question of "+end.run)), end.run)
		connects, cut, resets = connects+end.connects, cut+end.cut, resets+end.draft.Resets
	}
	return fmt.Sprintf("%d readers, %d connections, %d of them cut, %d resets", len(r.ends), connects, cut, resets)
}
