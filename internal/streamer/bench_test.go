// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"fmt"
	"testing"
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
