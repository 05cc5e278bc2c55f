// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"
	"time"

	"chatrun.dev/operator/api/v1alpha1"
)

// looks are those that the manager takes most often, by what they lead to.
var looks = []struct {
	name string
	f    facts
	now  time.Duration
	verb verb
}{
	{"start", facts{run: newRun()}, 0, start},
	{"under way", facts{run: newRun(streaming(1)), pool: pool(1, nil)}, time.Second, ignore},
	{"succeed", facts{run: newRun(streaming(1)), pool: pool(1, good(1))}, time.Second, succeed},
	{"retry", facts{run: newRun(streaming(1)), pool: pool(1, failed(1, overloaded))}, time.Second, retry},
	{"finished", facts{run: newRun(ended(succeed, "")), pool: settled(1)}, time.Second, forget},
}

// BenchmarkDecide is what a look at a run costs once its facts are gathered.
func BenchmarkDecide(b *testing.B) {
	for _, look := range looks {
		b.Run(look.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := decide(look.f, t0.Add(look.now)); d.verb != look.verb {
					b.Fatalf("it decides %s, not %s", d.verb, look.verb)
				}
			}
		})
	}
}

// BenchmarkNextStatus is what the status of a run's end costs, without its write.
func BenchmarkNextStatus(b *testing.B) {
	run, d := newRun(streaming(1)), decision{verb: succeed, outcome: good(1)}
	b.ReportAllocs()
	for b.Loop() {
		if s := nextStatus(run, d, actor{worker: "me"}, t0); s.Phase != v1alpha1.PhaseSucceeded {
			b.Fatal(s.Phase)
		}
	}
}

// TestDecideAllocatesNothing keeps a look from making copies: most looks lead to nothing.
func TestDecideAllocatesNothing(t *testing.T) {
	for _, look := range looks {
		if got := testing.AllocsPerRun(100, func() { decide(look.f, t0.Add(look.now)) }); got != 0 {
			t.Errorf("%s: %.0f allocations", look.name, got)
		}
	}
}
