// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/bench/actor"
	"chatrun.dev/operator/test/bench/figures"
	"chatrun.dev/operator/test/bench/meter"
)

const (
	// soakFaults of the requests fail.
	soakFaults = 0.3
	// soakExpire is how many seconds a run is kept after its end: what is stored is
	// bounded, and so nothing that grows is the store's.
	soakExpire = 20
	// soakSamples is how often is looked, soakBlocks how many points a slope has.
	soakSamples, soakBlocks = 240, 20
)

// soakPrefix begins the names of its runs, and tells their requests from others'.
const soakPrefix = "soak"

// Soaked is what a soak showed.
type Soaked struct {
	Taken      time.Time
	Took       time.Duration
	Filling    time.Duration // the first part of it
	Machine    figures.Machine
	Runs       int
	Succeeded  int
	Requests   int
	Attempts   int
	Failed     int // requests that the provider failed on purpose
	Memory     figures.Slope
	Goroutines figures.Slope
	// Wrong is what must not be.
	Wrong []string
}

// Text says it in words.
func (s Soaked) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Taken on %s on %d CPUs, in %s, the first %s of which are not counted: %d runs, %d of them seen to succeed, %d attempts counted, %d requests seen, of which the provider failed %d.\n\n",
		s.Taken.UTC().Format("2006-01-02 15:04 UTC"), s.Machine.CPUs, s.Took.Round(time.Second), s.Filling, s.Runs, s.Succeeded, s.Attempts, s.Requests, s.Failed)
	b.WriteString("| | mean | slope an hour | 95 % confidence | flat |\n|---|---|---|---|---|\n")
	line := func(name string, slope figures.Slope, unit string, by float64) {
		fmt.Fprintf(&b, "| %s | %.1f %s | %+.1f %s | ± %.1f, over %d points | %v |\n",
			name, slope.Mean/by, unit, slope.PerHour/by, unit, slope.Within/by, slope.Points, slope.Flat())
	}
	line("resident memory", s.Memory, "MiB", mebi)
	line("goroutines", s.Goroutines, "", 1)
	if len(s.Wrong) > 0 {
		fmt.Fprintf(&b, "\nWrong: %s.\n", strings.Join(s.Wrong, "; "))
	}
	return b.String()
}

// samples are what was looked at, and when.
type samples struct {
	at                 []time.Duration
	memory, goroutines []float64
}

// Soak lets runs come, fail, be tried again and end at half the load of Many, each with
// a reader for its first attempts, and looks at the manager all the while.
func Soak(ctx context.Context, w *World, long time.Duration) (s Soaked, err error) {
	s = Soaked{Taken: time.Now(), Machine: Machine(), Filling: w.Scale.Filling}
	script := actor.Script{Name: "soak", Parts: w.Scale.SoakParts, Pace: w.Scale.Many.pace(), Faults: soakFaults, Seed: uint64(s.Taken.UnixNano())}
	p, err := w.place(ctx, script, false)
	if err != nil {
		return s, err
	}
	m, err := w.manager(ctx, p)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, m.Kill(), p.clear(ctx)) }()
	// Half as many streams as Many has, each as long as its answer takes.
	answer := time.Duration(w.Scale.SoakParts) * w.Scale.Many.pace()
	rate := float64(w.Scale.Many.Runs) / 2 / answer.Seconds()
	s.Runs = int(rate * (w.Scale.Filling + long).Seconds())
	w.Say("filling for %s, soaking for %s: %d runs, %.1f a second, %.0f %% of the requests fail", w.Scale.Filling, long, s.Runs, rate, 100*soakFaults)
	began := time.Now()
	made := make(chan error, 1)
	go func() {
		runs := p.runs(s.Runs)
		runs.Prefix = soakPrefix
		runs.PerSecond, runs.Workers, runs.Expire, runs.Quick = rate, 4*w.Scale.Workers, soakExpire, true
		_, err := actor.Call[time.Duration](ctx, w.load, "Make", runs)
		made <- err
	}()
	seen, err := w.watchSoak(ctx, m, p, rate, long/soakSamples, made)
	if err != nil {
		return s, err
	}
	s.Took = time.Since(began)
	if err := p.await(ctx, 0, s.Runs); err != nil {
		return s, err
	}
	if s.Memory, err = figures.SlopeOf(seen.at, seen.memory, long/soakBlocks); err != nil {
		return s, err
	}
	if s.Goroutines, err = figures.SlopeOf(seen.at, seen.goroutines, long/soakBlocks); err != nil {
		return s, err
	}
	return s, w.judge(ctx, p, &s)
}

// watchSoak looks at the manager until all runs are made, and leaves out the time in
// which it fills.
func (w *World) watchSoak(ctx context.Context, m *manager, p *place, rate float64, every time.Duration, made <-chan error) (s samples, err error) {
	began, last := time.Now(), -1
	tick := time.NewTicker(every)
	defer tick.Stop()
	var groups []string
	leave := func(keep int) error {
		for len(groups) > keep {
			if err := actor.Do(ctx, w.readers, "Leave", groups[0]); err != nil {
				return err
			}
			groups = groups[1:]
		}
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return s, context.Cause(ctx)
		case err := <-made:
			return s.since(w.Scale.Filling), errors.Join(err, leave(0))
		case <-tick.C:
		}
		metrics, err := meter.Scrape(ctx, m.metrics)
		if err != nil {
			return s, err
		}
		s.at = append(s.at, time.Since(began))
		s.memory = append(s.memory, metrics.Sum("process_resident_memory_bytes", nil))
		s.goroutines = append(s.goroutines, metrics.Sum("go_goroutines", nil))
		// Those made since are read. They wait for runs that the manager is yet to see.
		to := int(rate * time.Since(began).Seconds())
		var paths []string
		for n := last + 1; n < to; n++ {
			paths = append(paths, p.path(soakPrefix, n)+"?wait=30s")
		}
		last = max(last, to-1)
		if len(paths) > 0 {
			groups = append(groups, fmt.Sprintf("soak-%d", to))
			if err := actor.Do(ctx, w.readers, "Join", actor.Group{Name: groups[len(groups)-1], Addr: m.addr(), Paths: paths}); err != nil {
				return s, err
			}
		}
		// Readers of runs that ended long ago were closed by the manager.
		if err := leave(soakGroups); err != nil {
			return s, err
		}
	}
}

// soakGroups is how many groups of readers stay: of those made in a tenth of the time,
// which is longer than a run takes with its failures, as a rule.
const soakGroups = soakSamples / 10

// since leaves out the samples before a time.
func (s samples) since(filled time.Duration) samples {
	from, _ := slices.BinarySearch(s.at, filled)
	return samples{s.at[from:], s.memory[from:], s.goroutines[from:]}
}

// judge holds the ledger of the provider against what statuses counted: no request that
// no attempt counts, and none for which nobody asked.
func (w *World) judge(ctx context.Context, p *place, s *Soaked) error {
	ledger, err := actor.Call[chattest.Snapshot](ctx, w.provider, "Ledger", actor.None{})
	if err != nil {
		return err
	}
	attempts, err := actor.Call[map[string]int](ctx, w.load, "Attempts", p.namespace)
	if err != nil {
		return err
	}
	seen, err := actor.Call[actor.Seen](ctx, w.load, "Look", p.namespace)
	if err != nil {
		return err
	}
	s.Succeeded = seen.Succeeded
	s.Wrong = account(ledger, attempts, s)
	return nil
}

// Err is what the soak shows that must not be.
func (s Soaked) Err() error {
	wrong := s.Wrong
	if !s.Memory.Flat() {
		wrong = append(wrong, "memory grows")
	}
	if !s.Goroutines.Flat() {
		wrong = append(wrong, "goroutines grow")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the soak shows: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// account is what the two say that does not fit together.
func account(ledger chattest.Snapshot, attempts map[string]int, s *Soaked) (wrong []string) {
	for _, counted := range attempts {
		s.Attempts += counted
	}
	asked := map[string]bool{}
	for _, tally := range ledger.Keys {
		if tally.Purpose != chattest.PurposeAnswer || !strings.HasPrefix(tally.Key, actor.Prompt(soakPrefix+"-")) {
			continue // of what was measured before
		}
		asked[tally.Key] = true
		s.Requests += tally.Count
		s.Failed += tally.Count - tally.Completed
		if tally.Count > attempts[tally.Key] {
			wrong = append(wrong, fmt.Sprintf("%q was asked %d times and counted %d", tally.Key, tally.Count, attempts[tally.Key]))
		}
		if tally.MaxLive > 1 {
			wrong = append(wrong, fmt.Sprintf("%q was asked %d times at once", tally.Key, tally.MaxLive))
		}
	}
	for key := range attempts {
		if !asked[key] {
			wrong = append(wrong, fmt.Sprintf("%q was never asked", key))
		}
	}
	if s.Succeeded != s.Runs {
		wrong = append(wrong, fmt.Sprintf("%d runs of %d succeeded", s.Succeeded, s.Runs))
	}
	if ledger.Strays > 0 {
		wrong = append(wrong, fmt.Sprintf("%d requests went nowhere", ledger.Strays))
	}
	slices.Sort(wrong)
	return wrong
}
