// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a provider with a number of places that refuses what is above them,
// and runs that come to it by way of Places, on a virtual clock.
type world struct {
	*Places
	mu    sync.Mutex
	turns map[Key]chan struct{}
	// capacity is how many attempts the provider takes at a time, at present;
	// tokens, if not nil, is how many it takes at all until they are refilled.
	capacity, active int
	tokens           *int
	// moody refuses one attempt in five, whatever is under way.
	moody   bool
	refused int
	most    int // refused within one run
}

// scenario is one simulation.
type scenario struct {
	runs     int
	capacity int
	answer   time.Duration
	// rate is how many runs come in a second; 0 is all at once.
	rate int
	// then happens to the provider beside.
	then func(*world)
}

const (
	firstPart  = 15 * time.Millisecond
	refusal    = 5 * time.Millisecond
	firstDelay = time.Second
	maxDelay   = time.Minute
)

func (w *world) wakeUp(k Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.turns[k] <- struct{}{}:
	default:
	}
}

// begin reports whether the provider takes another attempt. dice are the run's
// own, so that chance is the same in whatever order runs come.
func (w *world) begin(dice *rand.Rand) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.active >= w.capacity || w.tokens != nil && *w.tokens == 0 || w.moody && dice.IntN(5) == 0 {
		w.refused++
		return false
	}
	if w.tokens != nil {
		*w.tokens--
	}
	w.active++
	return true
}

func (w *world) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active--
}

func (w *world) setCapacity(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.capacity = n
}

// run is one run, from its creation to its answer.
func (w *world) run(c Claim, answer time.Duration, turn chan struct{}, dice *rand.Rand) {
	delay, refusals := firstDelay, 0
	for {
		for got, _ := w.Ask(c); got != Granted; got, _ = w.Ask(c) {
			<-turn
		}
		if w.begin(dice) {
			break
		}
		<-time.After(refusal)
		refusals++
		w.Ended(c.Key, c.UID, Result{Refused: true, Until: time.Now().Add(delay)})
		<-time.After(delay)
		delay = min(2*delay, maxDelay)
	}
	<-time.After(firstPart)
	w.Begun(c.Key, c.UID)
	<-time.After(answer - firstPart)
	w.end()
	w.Ended(c.Key, c.UID, Result{Accepted: true})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most = max(w.most, refusals)
}

// simulate returns the refusals, and the time that it took.
func simulate(t *testing.T, s scenario) (w *world, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w = &world{turns: map[Key]chan struct{}{}, capacity: s.capacity}
		w.Places = New(0, w.wakeUp)
		var work sync.WaitGroup
		began := time.Now()
		if s.then != nil {
			work.Go(func() { s.then(w) })
		}
		for i := range s.runs {
			c, turn := claim("a", i), make(chan struct{}, 1)
			w.mu.Lock()
			w.turns[c.Key] = turn
			w.mu.Unlock()
			work.Go(func() { w.run(c, s.answer, turn, rand.New(rand.NewPCG(uint64(i), 1))) })
			if s.rate > 0 {
				<-time.After(time.Second / time.Duration(s.rate))
			}
		}
		work.Wait()
		took = time.Since(began)
		<-time.After(2 * gateMemory)
		synctest.Wait()
		empty(t, w.Places)
	})
	return w, took
}

// TestOverload holds the algorithm against the schedule of somebody who knows
// what the provider takes.
func TestOverload(t *testing.T) {
	ms := time.Millisecond
	for _, tc := range []struct {
		name string
		scenario
		refusals float64 // a run, at most
		ratio    float64 // of the ideal time, at most
	}{
		{"500 at once", scenario{runs: 500, capacity: 20, answer: 300 * ms}, 1.5, 1.3},
		{"500 at 120/s", scenario{runs: 500, capacity: 20, answer: 300 * ms, rate: 120}, 0.5, 1.3},
		{"500 at 60/s, hardly too many", scenario{runs: 500, capacity: 20, answer: 300 * ms, rate: 60}, 0.5, 1.3},
		{"500 at 1,000/s", scenario{runs: 500, capacity: 20, answer: 300 * ms, rate: 1000}, 1.5, 1.3},
		{"long answers", scenario{runs: 200, capacity: 10, answer: 30 * time.Second}, 1.5, 1.3},
		{"one at a time", scenario{runs: 100, capacity: 1, answer: time.Second}, 2.5, 1.3},
		{"5,000 at 300/s", scenario{runs: 5000, capacity: 50, answer: 500 * ms, rate: 300}, 0.3, 1.1},
	} {
		w, took := simulate(t, tc.scenario)
		perRun := float64(w.refused) / float64(tc.runs)
		ideal := time.Duration(float64(tc.answer) * float64(tc.runs) / float64(tc.capacity))
		if tc.rate > 0 {
			ideal = max(ideal, time.Duration(tc.runs)*time.Second/time.Duration(tc.rate)+tc.answer)
		}
		ratio := took.Seconds() / ideal.Seconds()
		t.Logf("%-30s %.2f refusals a run, %d at most; %.2f of the ideal %v", tc.name, perRun, w.most, ratio, ideal)
		if perRun > tc.refusals || ratio > tc.ratio {
			t.Errorf("%s: more than %.2f refusals a run, or %.2f of the ideal time", tc.name, tc.refusals, tc.ratio)
		}
	}
}

// TestChangingProvider: whatever becomes of the provider, everybody gets an
// answer, and it is not stormed.
func TestChangingProvider(t *testing.T) {
	ms := time.Millisecond
	at := func(d time.Duration, capacity int) func(*world) {
		return func(w *world) {
			<-time.After(d)
			w.setCapacity(capacity)
		}
	}
	for _, tc := range []struct {
		name string
		scenario
		refusals float64
		within   time.Duration
	}{
		// 3,000 at 20 places take 45 s; from 10 s on there are ten times as many.
		{"grows", scenario{runs: 3000, capacity: 20, answer: 300 * ms, then: at(10*time.Second, 200)}, 1.5, 27 * time.Second},
		{"shrinks", scenario{runs: 3000, capacity: 200, answer: 300 * ms, then: at(time.Second, 20)}, 1.5, 60 * time.Second},
		{"goes and comes back", scenario{runs: 500, capacity: 20, answer: 300 * ms, rate: 100, then: func(w *world) {
			at(time.Second, 0)(w)
			at(time.Minute, 20)(w)
		}}, 1.5, 2 * time.Minute},
		// Refusals that meet nobody else are remembered as well.
		{"is away, 10/s", scenario{runs: 300, answer: 300 * ms, rate: 10, then: at(10*time.Minute, 20)}, 2, 12 * time.Minute},
		{"is away, 50/s", scenario{runs: 300, answer: 300 * ms, rate: 50, then: at(10*time.Minute, 20)}, 2, 12 * time.Minute},
		{"is away, 150/s", scenario{runs: 300, answer: 300 * ms, rate: 150, then: at(10*time.Minute, 20)}, 2, 12 * time.Minute},
		{"comes up late", scenario{runs: 300, capacity: 0, answer: 300 * ms, then: at(2*time.Minute, 20)}, 2, 4 * time.Minute},
		// With no bound at all chance would let a run wait four times, 31 s with its
		// answer's 10.
		{"refuses here and there", scenario{runs: 1000, capacity: 5000, answer: 10 * time.Second, then: func(w *world) {
			w.mu.Lock()
			w.moody = true
			w.mu.Unlock()
		}}, 0.5, time.Minute},
		// Who knew that it takes 50 would need 25 s.
		{"refuses here and there, and takes 50", scenario{runs: 1000, capacity: 50, answer: time.Second, rate: 200, then: func(w *world) {
			w.mu.Lock()
			w.moody = true
			w.mu.Unlock()
		}}, 0.5, time.Minute},
		// One refusal must not hold back what comes after it for as long as an answer
		// takes: 400 at 10 a second, of five minutes each.
		{"refuses once, long answers", scenario{runs: 400, capacity: 5000, answer: 5 * time.Minute, rate: 10, then: func(w *world) {
			<-time.After(time.Second)
			w.setCapacity(0)
			<-time.After(100 * time.Millisecond)
			w.setCapacity(5000)
		}}, 0.1, 7 * time.Minute},
		// 60 a minute: 300 runs take five minutes.
		{"counts by the minute", scenario{runs: 300, capacity: 100, answer: 300 * ms, then: func(w *world) {
			w.mu.Lock()
			w.tokens = new(60)
			w.mu.Unlock()
			for range 6 {
				<-time.After(time.Minute)
				w.mu.Lock()
				*w.tokens = 60
				w.mu.Unlock()
			}
		}}, 3, 11 * time.Minute},
	} {
		w, took := simulate(t, tc.scenario)
		perRun := float64(w.refused) / float64(tc.runs)
		t.Logf("%-22s %.2f refusals a run, %d at most; %v", tc.name, perRun, w.most, took.Round(time.Second/10))
		if perRun > tc.refusals || took > tc.within {
			t.Errorf("%s: more than %.2f refusals a run, or %v", tc.name, tc.refusals, tc.within)
		}
	}
}
