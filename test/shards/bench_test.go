// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package shards_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/test/harness"
)

const (
	// storedRuns is how many are stored if SHARDS_RUNS does not say.
	storedRuns = 500
	// writers store them at a time.
	writers = 16
	// answerBytes is the answer of each.
	answerBytes = 2 << 10
)

// BenchmarkShards stores finished runs, and says what it costs one replica to hold
// them: all of them, or its third, from an API server that filters and from one that
// does not. For the figures of docs/decisions/0019-sharded-watches.md:
//
//	SHARDS_RUNS=20000 go test -run='^$' -bench=Shards -benchtime=1x -timeout=30m ./test/shards
func BenchmarkShards(b *testing.B) {
	n := storedRuns
	if s := os.Getenv("SHARDS_RUNS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	for _, filters := range []bool{true, false} {
		b.Run(fmt.Sprintf("filters=%v", filters), func(b *testing.B) {
			plane, err := startPlane(b.Context(), filters)
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := plane.Stop(); err != nil {
					b.Error(err)
				}
			}()
			fill(b, plane.Client, n)
			answers(b, plane)
			b.Run("all", func(b *testing.B) { hold(b, plane, false) })
			b.Run("third", func(b *testing.B) { hold(b, plane, true) })
		})
	}
}

// fill stores n finished runs.
func fill(b *testing.B, c client.Client, n int) {
	b.Helper()
	namespace, err := newNamespace(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	var work sync.WaitGroup
	for range writers {
		work.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := store(b.Context(), c, newRun(namespace, fmt.Sprintf("run-%d", i)), succeeded(answerBytes)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
}

// answers logs what the API server says of a list that is narrowed by shard.
func answers(b *testing.B, plane *harness.ControlPlane) {
	b.Helper()
	set, err := kubernetes.NewForConfig(plane.Config)
	if err != nil {
		b.Fatal(err)
	}
	raw, err := set.RESTClient().Get().AbsPath("/apis/chatrun.dev/v1alpha1/chatruns").
		Param("shardSelector", third(0).Selector().String()).DoRaw(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var list struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		b.Fatal(err)
	}
	b.Logf("a third is asked for, %d runs come, shardInfo is %v", len(list.Items), list.Metadata.ShardInfo)
}

// hold measures one replica's cache.
func hold(b *testing.B, plane *harness.ControlPlane, sharded bool) {
	for range b.N {
		var shares *controller.Shares
		if sharded {
			shares = controller.NewShares("me", nil)
			shares.Set(third(0))
		}
		before, peak := heap(), watchHeap()
		began := time.Now()
		r, err := newReplica(context.WithoutCancel(b.Context()), plane.ManagerConfig, shares)
		if err != nil {
			b.Fatal(err)
		}
		took, most := time.Since(began), peak()
		after := heap()
		names, err := r.names(b.Context(), "")
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(names)), "runs")
		b.ReportMetric(float64(int64(after)-int64(before))/(1<<20), "heap-MiB")
		b.ReportMetric(float64(int64(most)-int64(before))/(1<<20), "peak-MiB")
		b.ReportMetric(float64(r.wire.bytes.Load())/(1<<20), "listed-MiB")
		b.ReportMetric(took.Seconds(), "list-s")
		b.ReportMetric(0, "ns/op")
		r.stop()
	}
}

// heap returns the bytes that live after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one left to finalizers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watchHeap looks at the heap all the time, until what it returns is called: that
// returns the most that was seen, garbage included.
func watchHeap() func() uint64 {
	stop, most := make(chan struct{}), make(chan uint64)
	go func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		peak := uint64(0)
		for {
			select {
			case <-stop:
				most <- peak
				return
			case <-ticker.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
	}()
	return func() uint64 {
		close(stop)
		return <-most
	}
}
