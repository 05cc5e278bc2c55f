// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest_test

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"chatrun.dev/operator/internal/chattest"
)

// benchmarkParts is an answer of some length.
const benchmarkParts = 1000

// sink is a ResponseWriter that costs nothing, so that what is measured is ours.
type sink struct {
	header http.Header
	bytes  int64
}

func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(int)     {}
func (s *sink) Flush()              {}
func (s *sink) Write(b []byte) (int, error) {
	s.bytes += int64(len(b))
	return len(b), nil
}

// BenchmarkRender measures a stream without a network; an op is a part.
func BenchmarkRender(b *testing.B) {
	for _, vendor := range vendors {
		b.Run(vendor.name, func(b *testing.B) {
			server := chattest.New(chattest.Always(chattest.Answer(slices.Repeat([]string{" token"}, b.N)...)))
			defer server.Close()
			request := ask(b, "", vendor.path, vendor.body)
			w := &sink{header: http.Header{}}
			b.ReportAllocs()
			b.ResetTimer()
			server.ServeHTTP(w, request)
			b.SetBytes(w.bytes / int64(b.N))
		})
	}
}

// BenchmarkStream measures streams over loopback, many at once; an op is a
// stream of benchmarkParts parts.
func BenchmarkStream(b *testing.B) {
	for _, vendor := range vendors {
		b.Run(vendor.name, func(b *testing.B) {
			server := chattest.Start(b, chattest.Always(chattest.Answer(slices.Repeat([]string{" token"}, benchmarkParts)...)))
			transport := &http.Transport{MaxIdleConnsPerHost: 100}
			defer transport.CloseIdleConnections()
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := transport.RoundTrip(ask(b, server.URL(), vendor.path, vendor.body))
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						b.Error(err)
					}
					_ = resp.Body.Close()
				}
			})
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchmarkParts, "ns/part")
		})
	}
}
