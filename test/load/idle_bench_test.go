// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/pem"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/test/load/crowd"
)

// idleness is how long the readers of BenchmarkIdle are left alone, once they
// had the time to settle.
const (
	idleness = 10 * time.Second
	settling = 2 * time.Second
)

// BenchmarkIdle is what 2,000 readers take to whom nothing happens, by how they
// came. The memory of their sockets is the kernel's and not in it.
func BenchmarkIdle(b *testing.B) {
	for _, test := range []struct {
		name    string
		tls     bool
		streams int // of HTTP/2, on each connection
		beat    time.Duration
	}{
		{"http", false, 0, time.Hour},
		{"http-beat-1s", false, 0, time.Second},
		{"https", true, 0, time.Hour},
		{"h2-own-connection", true, 1, time.Hour},
		{"h2-100-a-connection", true, 100, time.Hour},
	} {
		b.Run(test.name, func(b *testing.B) {
			needFiles(b, readers)
			hub := streamer.NewHub()
			handler := streamer.NewHandler(hub, &source{}, streamer.Anyone)
			handler.Heartbeat = test.beat
			server := httptest.NewUnstartedServer(handler)
			group := crowd.Group{
				Name: live, Kind: crowd.Drain, Streams: test.streams,
				Paths: slices.Repeat([]string{pathOf(runOf(0))}, readers),
			}
			if test.tls {
				server.EnableHTTP2 = test.streams > 0
				server.StartTLS()
				group.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			} else {
				server.Start()
			}
			defer server.Close()
			group.Addr = server.Listener.Addr().String()
			c := crowd.Start(b)
			before := measure()
			c.Join(group)
			NewWithT(b).Eventually(hub.Readers, patience).Should(Equal(readers))
			c.Await(crowd.Mark{Group: live, At: 2}) // a hint and the status

			now := measure()
			<-time.After(settling)
			var cpu, idle time.Duration
			for b.Loop() {
				began := processTime()
				<-time.After(idleness)
				cpu += processTime() - began
				idle += idleness
			}
			if n := hub.Readers(); n != readers {
				b.Fatalf("%d readers are left of %d to whom nothing happened", n, readers)
			}
			hub.Close()
			c.Leave(live)
			each := func(taken int) float64 { return float64(taken) / readers / 1024 }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(now.goroutines-before.goroutines)/readers, "goroutines/reader")
			b.ReportMetric(each(now.heap-before.heap), "heap-KiB/reader")
			b.ReportMetric(each(now.stacks-before.stacks), "stack-KiB/reader")
			b.ReportMetric(each(now.resident-before.resident), "resident-KiB/reader")
			b.ReportMetric(float64(cpu.Microseconds())/idle.Seconds()/1000, "CPU-ms/s")
		})
	}
}
