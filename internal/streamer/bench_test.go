// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"fmt"
	"testing"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// BenchmarkAppend is what a token costs on its way into the log, drops of a
// full log included.
func BenchmarkAppend(b *testing.B) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%100_000 == 0 { // an answer has an end
			hub.Begin(hello, statusOf(hello, "Streaming", 1))
		}
		hub.Part(hello.UID, 1, text(" token"))
	}
}

// BenchmarkEncode is what a token costs to become a frame.
func BenchmarkEncode(b *testing.B) {
	at := cursor{newEpoch(), 1, 12_345}
	b.ReportAllocs()
	for b.Loop() {
		if f := event(at, stream.EventMessagePart, encodePart(provider.Text, " token")); len(f) == 0 {
			b.Fatal("nothing was encoded")
		}
	}
}

// appendAllocations is the most that a part may allocate on its way into the log, its
// frame and what wakes readers included; readAllocations is that of a
// delivery, which shares the frame with all others.
const (
	appendAllocations = 4
	readAllocations   = 1
)

func TestPartsAllocate(t *testing.T) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	r := &reader{log: hub.join(hello)}
	r.enter(false, &View{})
	frames := make([][]byte, 0, batchFrames)
	add := func() { hub.Part(hello.UID, 1, text(" token")) }
	if got := testing.AllocsPerRun(1000, add); got > appendAllocations {
		t.Errorf("a part allocates %.0f times, more than %d", got, appendAllocations)
	}
	both := testing.AllocsPerRun(1000, func() {
		add()
		for r.next(frames).more {
		}
	})
	if got := both - testing.AllocsPerRun(1000, add); got > readAllocations {
		t.Errorf("a delivery allocates %.0f times, more than %d", got, readAllocations)
	}
}

// BenchmarkRead is what one part costs with n cursors behind it, without the
// writes.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			hub := NewHub()
			hub.Begin(hello, statusOf(hello, "Streaming", 1))
			readers := make([]*reader, n)
			for i := range readers {
				readers[i] = &reader{log: hub.join(hello)}
				readers[i].enter(false, &View{})
			}
			frames := make([][]byte, 0, batchFrames)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%10_000 == 0 {
					hub.Begin(hello, statusOf(hello, "Streaming", 1))
				}
				hub.Part(hello.UID, 1, text(" token"))
				for _, r := range readers {
					if got := r.next(frames); len(got.frames) == 0 {
						b.Fatal("nothing came")
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/delivery")
		})
	}
}

// BenchmarkCatchUp is a reader that comes to a long answer and reads all of it.
func BenchmarkCatchUp(b *testing.B) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	for range 10_000 {
		hub.Part(hello.UID, 1, text(" token"))
	}
	frames := make([][]byte, 0, batchFrames)
	b.ReportAllocs()
	for b.Loop() {
		r := &reader{log: hub.find(hello.UID)}
		for r.next(frames).more {
		}
	}
}
